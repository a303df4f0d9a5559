"""A window for `render_mode="human"`, drawn by matplotlib on whatever screen there is."""

from __future__ import annotations

import numpy as np


class Window:
    """Shows one picture at a time; without a screen it draws into memory and says nothing."""

    def __init__(self, title: str):
        import matplotlib.pyplot as plt
        from matplotlib import get_backend

        self._plt = plt
        self._has_screen = get_backend().lower() not in ("agg", "cairo", "pdf", "ps", "svg")
        self._figure = plt.figure(title, layout="tight")

    def show(self, picture: np.ndarray) -> None:
        """Replace what is shown by a picture (H, W, 3)."""
        self._figure.clear()
        axes = self._figure.add_subplot()
        axes.imshow(picture)
        axes.set_axis_off()
        self._figure.canvas.draw()
        if self._has_screen:
            self._plt.show(block=False)
            self._plt.pause(0.01)

    def close(self) -> None:
        """Close the window."""
        self._plt.close(self._figure)
