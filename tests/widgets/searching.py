"""An engine without a process that finds objects, for tests of the panel."""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from napari_skipseg.images.files import read_recipe, read_stack
from napari_skipseg.inference.objects_to_folder import ObjectsRequest, describe_found_objects
from napari_skipseg.jobs.messages import FindObjects
from napari_skipseg.objects.classes import ClassImage, probability_of_class, records_padding
from napari_skipseg.objects.files import FoundObjects
from napari_skipseg.objects.find_in_blocks import ObjectsTarget, iter_find_objects
from napari_skipseg.objects.measure import measure_objects
from napari_skipseg.progress import Progress


def with_search(engine: Any, folder: Path) -> Any:
    """Give an engine a search for objects, in `steps` steps of `pause` seconds; its results lie in `folder`."""

    def find(request: FindObjects) -> Generator[Progress, None, FoundObjects]:
        probability, class_names, options = request.probability, request.class_names, request.options
        image, labels = request.image, request.is_labels
        engine.calls.append((probability, class_names, options, image, labels))
        place = folder / f"objects-{len(engine.calls)}"
        for step in range(engine.steps):
            time.sleep(engine.pause)
            yield Progress(step, engine.steps, f"block {step}")
            if engine.fault is not None:
                raise engine.fault
        source = ClassImage(probability, tuple(class_names), labels, records_padding(request.recipe))
        told = describe_found_objects(ObjectsRequest(source, options, image, "ome-zarr"))
        target = ObjectsTarget(place, "found", "ome-zarr", {**told, **request.recipe})
        found = yield from iter_find_objects(source, options, target)
        chosen = probability_of_class(source, options)
        axes = "".join(axis for axis in "TZYX" if axis in probability.space.axes)
        table = measure_objects(read_stack(found.file, axes), image, chosen, options.planes)
        return FoundObjects(found.file, found.count, table, read_recipe(found.file) or {})

    engine.answers[FindObjects] = find
    return engine
