"""How long the panel takes to open once napari is up, in processor seconds: `xvfb-run -a python benchmarks/panel.py`.

The parts: imports, the widgets, the events until it is drawn. All threads of this process count, the engine's process
does not.
"""

from __future__ import annotations

import os
import time
from itertools import pairwise

os.environ["NAPARI_SKIPSEG_SETTINGS"] = ""

import napari
from qtpy.QtWidgets import QApplication


def main() -> None:
    """Open napari, then the panel, and print what each part took."""
    viewer = napari.Viewer()
    for _ in range(5):
        QApplication.processEvents()
    times = [time.process_time()]
    import napari_skipseg.widgets.panel  # noqa: F401

    times.append(time.process_time())
    viewer.window.add_plugin_dock_widget("napari-skipseg", "SkipSeg")
    times.append(time.process_time())
    for _ in range(20):
        QApplication.processEvents()
    times.append(time.process_time())
    parts = [after - before for before, after in pairwise(times)]
    print(f"imports {parts[0]:.2f}, widgets {parts[1]:.2f}, drawing {parts[2]:.2f}, all {sum(parts):.2f}", flush=True)
    os._exit(0)  # no wait for threads, and no question of the window


if __name__ == "__main__":
    main()
