"""Small CLEVR-like pictures of CSS scenes: a NumPy ray caster that needs no renderer.

The ground is smooth and is shaded once per pixel. Each object is cast alone, with more rays per
pixel, inside the box it can cover, then laid over the picture from far to near: objects stand
apart on the ground, so this order is also the order of depth.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from retrieval.rendering.palette import COLORS

GROUND_SPAN = np.array([6.0, 6.75])
"""Ground that positions in [0, 1] span: x to the right, y away (more: it is foreshortened)."""

HALF_SIZE = {
    ("circle", "small"): 0.42,
    ("circle", "large"): 0.72,
    ("rectangle", "small"): 0.37,
    ("rectangle", "large"): 0.61,
    ("triangle", "small"): 0.39,
    ("triangle", "large"): 0.66,
}
"""Radius or half edge in world units. Cubes are a little less, as in CLEVR, for their diagonal."""

BEVEL = 0.14  # share of the half size over which edges look rounded
GROUND = 0.56  # linear reflectance
KEY, FILL, AMBIENT = 0.62, 0.16, 0.34  # strength of the lights
GLOSS = 0.38  # strength of the highlights
SHININESS_DOUBLINGS = 5  # highlights fall off with the cosine to the power of 2^5
GAMMA = 2.2


@dataclass(frozen=True)
class Camera:
    """Where a picture is taken from: maps world points to pixels and pixels to rays.

    Args:
        eye: position (3,).
        axes: rows are the directions right, up and forward (3, 3).
        width: pixels in a row.
        height: pixels in a column.

    Example:
        >>> camera = Camera.draw(np.random.default_rng(0), 64, 64)
        >>> camera.project(np.zeros((5, 3))).shape
        (5, 2)
    """

    eye: np.ndarray
    axes: np.ndarray
    width: int
    height: int

    @classmethod
    def draw(cls, rng: np.random.Generator, width: int, height: int) -> "Camera":
        """Draw a camera that sees the whole grid from above, with a slight jitter."""
        azimuth = np.deg2rad(rng.uniform(-4.0, 4.0))
        elevation = np.deg2rad(rng.uniform(51.0, 55.0))
        distance = rng.uniform(17.6, 18.4)
        forward = -np.array(
            [
                np.cos(elevation) * np.sin(azimuth),
                -np.cos(elevation) * np.cos(azimuth),
                np.sin(elevation),
            ]
        )
        right = np.array([np.cos(azimuth), np.sin(azimuth), 0.0])
        up = np.cross(right, forward)
        aim = np.array([0.0, -0.05, 0.35])
        return cls(aim - distance * forward, np.stack([right, up, forward]), width, height)

    @property
    def focal_length(self) -> float:
        """Focal length in pixels, such that the grid fills the shorter side."""
        return 2.45 * min(self.width, self.height)

    def project(self, points: np.ndarray) -> np.ndarray:
        """Map world points (P, 3) to continuous picture positions (P, 2): row, column."""
        right, up, depth = self.axes @ (points - self.eye).T  # 3 times (P,)
        row = self.height / 2 - self.focal_length * up / depth
        column = self.width / 2 + self.focal_length * right / depth
        return np.stack([row, column], axis=1)

    def rays(self, rows: np.ndarray, columns: np.ndarray, turned: np.ndarray) -> np.ndarray:
        """Unit directions (3, H, W) through picture rows (H,) and columns (W,).

        Args:
            rows: continuous row positions.
            columns: continuous column positions.
            turned: rotation (3, 3) from the world to the frame wanted.
        """
        right, up, forward = (self.axes @ turned.T).astype(np.float32)[:, :, None, None]
        across = ((columns - self.width / 2) / self.focal_length).astype(np.float32)
        above = ((self.height / 2 - rows) / self.focal_length).astype(np.float32)
        directions = forward + above[:, None] * up + across * right  # (3, H, W)
        directions /= np.sqrt(1 + above[:, None] ** 2 + across**2)
        return directions


def render_3d(
    scene: Sequence[Mapping[str, Any]],
    rng: np.random.Generator,
    width: int = 64,
    height: int = 64,
    supersampling: int = 4,
) -> np.ndarray:
    """Picture a scene as solids on a grey floor, in the look of CLEVR.

    Rectangles become cubes, circles spheres, triangles upright cylinders. Row 0 is far (top of
    the picture), column 0 left. Camera, light and the cubes' turn are drawn from `rng`: the same
    generator state gives the same picture. Source: the look is that of Johnson et al., "CLEVR",
    CVPR 2017, and of the CSS data of Vo et al., CVPR 2019. Departures: shadows fall on the floor
    only, and are soft by formula rather than by sampling.

    Args:
        scene: objects with `shape`, `size`, `color` and `pos` (row and column in [0, 1]).
        rng: source of the jitter.
        width: pixels in a row.
        height: pixels in a column.
        supersampling: rays per pixel and axis, for objects.

    Returns:
        Picture (height, width, 3), uint8.

    Example:
        >>> scene = [{"shape": "circle", "size": "large", "color": "red", "pos": [0.5, 0.5]}]
        >>> render_3d(scene, np.random.default_rng(0)).shape
        (64, 64, 3)
    """
    camera = Camera.draw(rng, width, height)
    light = _draw_light(rng)
    solids = [_Solid.place(item, rng) for item in scene]

    picture = _cast_ground(camera, light, solids)  # (3, H, W), linear light
    for solid in sorted(solids, key=lambda solid: -float(camera.axes[2, :2] @ solid.base)):
        _lay_over(picture, solid, camera, light, supersampling)

    np.clip(picture, 0, 1, out=picture)
    np.power(picture, np.float32(1 / GAMMA), out=picture)
    return np.rint(picture * 255).astype(np.uint8).transpose(1, 2, 0).copy()


@dataclass(frozen=True)
class _Solid:
    """One object in the world: where it stands, how big, how it is turned about the upright."""

    shape: str
    base: np.ndarray  # (2,) centre of its footprint
    half_size: float
    turn: np.ndarray  # (3, 3), world to object
    albedo: np.ndarray  # (3,), linear

    @classmethod
    def place(cls, item: Mapping[str, Any], rng: np.random.Generator) -> "_Solid":
        row, column = item["pos"]
        angle = rng.uniform(-np.pi / 4, np.pi / 4)
        cos, sin = np.cos(angle), np.sin(angle)
        return cls(
            shape=item["shape"],
            base=np.array([column - 0.5, 0.5 - row]) * GROUND_SPAN,
            half_size=HALF_SIZE[item["shape"], item["size"]],
            turn=np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]]),
            albedo=((np.array(COLORS[item["color"]]) / 255) ** GAMMA).astype(np.float32),
        )

    @property
    def centre(self) -> np.ndarray:
        return np.append(self.base, self.half_size)


def _draw_light(rng: np.random.Generator) -> np.ndarray:
    """Unit direction (3,) towards the key light: above, in front and left."""
    azimuth = np.deg2rad(rng.uniform(195.0, 225.0))
    elevation = np.deg2rad(rng.uniform(54.0, 60.0))
    return np.array(
        [
            np.cos(elevation) * np.cos(azimuth),
            np.cos(elevation) * np.sin(azimuth),
            np.sin(elevation),
        ]
    )


def _cast_ground(camera: Camera, light: np.ndarray, solids: list[_Solid]) -> np.ndarray:
    """Shade the floor, shadows included: linear light (3, H, W)."""
    rows, columns = np.arange(camera.height) + 0.5, np.arange(camera.width) + 0.5
    rays = camera.rays(rows, columns, np.eye(3))
    # a very tall picture would look past the horizon: stop short of it
    reach = np.float32(camera.eye[2]) / np.maximum(-rays[2], np.float32(0.05))
    x = np.float32(camera.eye[0]) + reach * rays[0]
    y = np.float32(camera.eye[1]) + reach * rays[1]

    lit = np.ones_like(x)
    open_sky = np.ones_like(x)
    for solid in solids:
        base = solid.base.astype(np.float32)
        _darken(lit, open_sky, x - base[0], y - base[1], solid, light)

    # the lamp hangs near the scene: the floor falls off gently around its brightest spot
    spot = light[:2].astype(np.float32) * 2
    falloff = 1 / (1 + np.float32(0.006) * ((x - spot[0]) ** 2 + (y - spot[1]) ** 2))
    key = np.float32(KEY * light[2])
    shade = np.float32(GROUND) * falloff * (key * lit + np.float32(AMBIENT + FILL) * open_sky)
    tint = np.array([1.0, 0.995, 0.98], np.float32)
    return tint[:, None, None] * shade


def _darken(
    lit: np.ndarray,
    open_sky: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    solid: _Solid,
    light: np.ndarray,
) -> None:
    """Multiply one solid's soft shadow into `lit` and its dimming of the sky into `open_sky`.

    The shadow is a smooth step over the signed distance to the solid's shadow region, wider
    where the shadow falls from higher up. Sky: the share a sphere of that size hides (exact for
    spheres), Quilez, "Sphere ambient occlusion".

    Args:
        lit: share of the key light (H, W), changed in place.
        open_sky: share of the ambient light (H, W), changed in place.
        x: floor positions (H, W) relative to the solid's base.
        y: likewise.
        solid: what stands in the way.
        light: unit direction towards the key light (3,).
    """
    half = np.float32(solid.half_size)
    squared = x * x + y * y
    distance = squared + half * half
    open_sky *= 1 - np.float32(0.8) * half**3 / (distance * np.sqrt(distance))

    # the top of a prism casts its shadow `shift` away from the base
    shift = -2 * solid.half_size * light[:2] / light[2]
    length = np.float32(np.hypot(*shift))
    along = (shift / length).astype(np.float32)
    forward = x * along[0] + y * along[1]
    sideways = y * along[0] - x * along[1]
    height = np.clip(forward / length, 0, 1)  # 0 at the foot of the shadow, 1 at its tip
    if solid.shape == "circle":
        # an ellipse, measured in the plane across the light
        across = (forward - length / 2) * np.float32(light[2])
        outside = np.sqrt(across**2 + sideways**2) - half
    elif solid.shape == "triangle":
        outside = np.sqrt((forward - height * length) ** 2 + sideways**2) - half
    else:
        sides = np.concatenate([solid.turn[:2, :2], -solid.turn[:2, :2]])  # (4, 2) normals
        breadth = np.abs(sides[:2] @ [-along[1], along[0]]).sum()
        outside = np.abs(sideways) - half * np.float32(breadth)
        for side in sides:
            gap = np.float32(side[0]) * x + np.float32(side[1]) * y
            np.maximum(outside, gap - half - np.float32(max(side @ shift, 0.0)), out=outside)
    blur = half * (np.float32(0.12) + np.float32(0.45) * height)
    step = np.clip(np.float32(0.5) + outside / (2 * blur), 0, 1)
    step *= step * (3 - 2 * step)
    lit *= np.float32(0.12) + np.float32(0.88) * step


def _lay_over(
    picture: np.ndarray, solid: _Solid, camera: Camera, light: np.ndarray, supersampling: int
) -> None:
    """Cast one solid inside its bounding box and lay it over the picture (3, H, W)."""
    signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, 8).T
    corners = solid.centre + solid.half_size * signs @ solid.turn  # (8, 3)
    spots = camera.project(corners)
    top, left = np.maximum(np.floor(spots.min(axis=0)), 0).astype(int)
    limit = (camera.height, camera.width)
    bottom, right = np.minimum(np.ceil(spots.max(axis=0)), limit).astype(int)
    if top >= bottom or left >= right:
        return

    fine = (np.arange(supersampling) + 0.5) / supersampling
    rows = (np.arange(top, bottom)[:, None] + fine).ravel()
    columns = (np.arange(left, right)[:, None] + fine).ravel()
    rays = camera.rays(rows, columns, solid.turn)
    eye = (solid.turn @ (camera.eye - solid.centre) / solid.half_size).astype(np.float32)
    # from here on lengths are in half sizes: every solid lies in the cube [-1, 1]
    hit, reach = _INTERSECT[solid.shape](eye, rays)
    points = eye[:, None, None] + reach * rays
    normals = _NORMALS[solid.shape](points)
    matt, gloss = _shade(normals, points, rays, (solid.turn @ light).astype(np.float32))

    cover = _shrink(hit.astype(np.float32), supersampling)
    matt = _shrink(np.where(hit, matt, 0), supersampling)
    gloss = _shrink(np.where(hit, gloss, 0), supersampling)
    patch = picture[:, top:bottom, left:right]
    patch *= 1 - cover
    patch += solid.albedo[:, None, None] * matt + gloss


def _shrink(fine: np.ndarray, factor: int) -> np.ndarray:
    """Average blocks of factor x factor values: (H * factor, W * factor) to (H, W)."""
    height, width = fine.shape[0] // factor, fine.shape[1] // factor
    tall = fine.reshape(height, factor, width * factor).sum(axis=1)
    ones = np.full(factor, 1 / factor**2, fine.dtype)
    return tall.reshape(height, width, factor) @ ones


def _hit_sphere(eye: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether rays (3, H, W) from eye (3,) meet the unit sphere, and how far away: two (H, W)."""
    middle = -_dot(eye, rays)
    inside = middle * middle - (eye @ eye - 1)
    return inside > 0, middle - np.sqrt(np.maximum(inside, 0))


def _hit_cube(eye: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `_hit_sphere`, for the cube [-1, 1]: the nearest point behind all near planes."""
    inverse = 1 / np.where(np.abs(rays) < 1e-6, np.float32(1e-6), rays)
    middle, half = -eye[:, None, None] * inverse, np.abs(inverse)
    enter = (middle - half).max(axis=0)
    return enter < (middle + half).min(axis=0), enter


def _hit_cylinder(eye: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `_hit_sphere`, for the upright cylinder of radius 1 and height 2."""
    flat = rays[0] ** 2 + rays[1] ** 2
    middle = -(eye[0] * rays[0] + eye[1] * rays[1]) / flat
    inside = middle * middle - (eye[0] ** 2 + eye[1] ** 2 - 1) / flat
    half = np.sqrt(np.maximum(inside, 0))
    # seen from above, so every ray here goes down: in at the lid, out at the floor
    enter = np.maximum(middle - half, (1 - eye[2]) / rays[2])
    leave = np.minimum(middle + half, (-1 - eye[2]) / rays[2])
    return (inside > 0) & (enter < leave), enter


def _sphere_normals(points: np.ndarray) -> np.ndarray:
    """Unit normals (3, H, W) at points of the unit sphere."""
    return points


def _cube_normals(points: np.ndarray) -> np.ndarray:
    """Normals of the cube, bent near the edges so that they catch the light like rounded ones."""
    normals = np.copysign(np.maximum(np.abs(points) - (1 - BEVEL), 0), points)
    normals /= np.sqrt(_dot(normals, normals)) + np.float32(1e-6)
    return normals


def _cylinder_normals(points: np.ndarray) -> np.ndarray:
    """Normals of the cylinder, bent at the rims as those of the cube at its edges."""
    radius = np.sqrt(points[0] ** 2 + points[1] ** 2) + np.float32(1e-6)
    normals = points * (np.maximum(radius - (1 - BEVEL), 0) / radius)
    normals[2] = np.copysign(np.maximum(np.abs(points[2]) - (1 - BEVEL), 0), points[2])
    normals /= np.sqrt(_dot(normals, normals)) + np.float32(1e-6)
    return normals


_INTERSECT = {"rectangle": _hit_cube, "circle": _hit_sphere, "triangle": _hit_cylinder}
_NORMALS = {"rectangle": _cube_normals, "circle": _sphere_normals, "triangle": _cylinder_normals}


def _shade(
    normals: np.ndarray, points: np.ndarray, rays: np.ndarray, light: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Light sent back by a surface, in the solid's own frame.

    Lambert for the key light, a lamp beside the camera and the sky; Blinn-Phong for the gloss.

    Args:
        normals: unit normals (3, H, W).
        points: where the rays meet the solid (3, H, W), in half sizes.
        rays: unit directions from the camera (3, H, W).
        light: unit direction towards the key light (3,).

    Returns:
        What the surface's colour is multiplied with, and the white gloss on top: two (H, W).
    """
    facing = _dot(light, normals)
    towards = -_dot(normals, rays)
    sky = (1 + normals[2]) / 2
    # little light reaches the crease between the solid and the floor
    crease = np.clip((points[2] + 1) * np.float32(0.7), 0, 1) * np.float32(0.45) + np.float32(0.55)
    matt = np.maximum(facing, 0) * np.float32(KEY) + towards * np.float32(FILL)
    matt += np.float32(AMBIENT) * crease * (np.float32(0.4) + np.float32(0.6) * sky)

    # cosine to the half vector light - ray, whose length follows from the angle between the two
    shine = np.maximum(facing + towards, 0) / np.sqrt(2 - 2 * _dot(light, rays))
    for _ in range(SHININESS_DOUBLINGS):
        shine *= shine
    return matt, np.float32(GLOSS) * shine


def _dot(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Dot product over the first axis, (3, ...) with (3, H, W): (H, W)."""
    return first[0] * second[0] + first[1] * second[1] + first[2] * second[2]
