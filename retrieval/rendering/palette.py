"""The words and colours of a CSS scene, shared by captions, 2D and 3D pictures."""

SHAPES = ("rectangle", "circle", "triangle")
"""Shape names of the published data; in 3D they are a cube, a sphere and a cylinder."""

SIZES = ("small", "large")

COLORS: dict[str, tuple[int, int, int]] = {
    "gray": (87, 87, 87),
    "red": (244, 35, 35),
    "blue": (42, 75, 215),
    "green": (29, 205, 20),
    "brown": (129, 74, 25),
    "purple": (129, 38, 192),
    "cyan": (41, 208, 208),
    "yellow": (255, 238, 51),
}
"""Colour names and their sRGB values, 0 to 255."""
