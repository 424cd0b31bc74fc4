"""Slices that differ from the rest of their stack are named, and those of an undisturbed stack are not."""

from functools import cache

import numpy as np
import pytest
import tifffile
from chosen_cases import pairs_first
from scipy import ndimage

from napari_skipseg.images.slice_checks.checks import SliceFault, iter_slice_faults
from napari_skipseg.images.slice_checks.messages import describe_faults, in_list
from napari_skipseg.images.slice_checks.samples import PhaseCorrelation, iter_sample_slices
from napari_skipseg.images.space import Space
from napari_skipseg.images.stack import Stack
from napari_skipseg.images.synthetic.sample import make_isotropic_sample, make_sample
from napari_skipseg.progress import run_to_end

RAW = (
    "isbi2012/train-volume-00-24.tif",
    "isbi2012/test-volume.tif",
    "vnc_larva3/stack1-raw-00-09.tif",
    "gala_fibsem/train-image.tif",
    "fib25_medulla/raw.tif",
    "fib25_medulla/raw_unlabelled.tif",
    "raw_misc/fib25-validation.tif",
    "raw_misc/axonem_h.tif",
    "raw_misc/sbem-brain-080-084.tif",
    "raw_misc/sbem-white-matter.tif",
    "cdeep3m_mito/raw-20-39.tif",
    "cdeep3m_mito/raw-smooth-10-19.tif",
    "kasthuri_24nm/raw.tif",
    "neuropil_membrane/raw_unlabelled.tif",
    "plant_chloroplast/raw.tif",
    "cellseg3d_mesospim/c5image.tif",
    "cellseg3d_mesospim/test_very_small.tif",
    "stardist_nuclei/img3d.tif",
)


@cache
def _made(make, shape):
    return make(shape, 3).stack.data


def sections(shape=(12, 256, 256)):
    return _made(make_sample, shape).copy()


def isotropic(shape=(24, 128, 160)):
    return _made(make_isotropic_sample, shape).copy()


STACKS = {
    "serial sections": sections,
    "isotropic": isotropic,
    "16 bits": lambda: sections().astype(np.uint16) * 100 + 300,
    "float": lambda: isotropic().astype(np.float32) / 255,
}


def found(values, axes=""):
    return run_to_end(iter_slice_faults(Stack(values, Space(axes or "TCZYX"[-values.ndim :]), name="it")))


def kinds(values, axes=""):
    return [(fault.kind, fault.number) for fault in found(values, axes)]


def with_slice(values, number, new):
    changed = values.copy()
    if values.dtype.kind == "u":
        new = np.clip(np.round(new), 0, np.iinfo(values.dtype).max)
    changed[number] = new.astype(values.dtype)
    return changed


def noise(values, share):
    return np.random.default_rng(1).normal(0, share * values.std(), values.shape[1:])


@pytest.fixture(params=STACKS)
def stack(request):
    return STACKS[request.param]()


def test_an_undisturbed_stack_has_no_faults(stack):
    assert found(stack) == ()


@pytest.mark.parametrize(
    ("stack", "value", "number"),
    pairs_first(STACKS, ["lowest", "mean", "highest", "dark noise"], [0, 5, 11]),
    indirect=["stack"],
)
def test_an_empty_slice_is_named_wherever_it_is(stack, value, number):
    new = {
        "lowest": np.full(stack.shape[1:], stack.min(), float),
        "mean": np.full(stack.shape[1:], stack.mean()),
        "highest": np.full(stack.shape[1:], stack.max(), float),
        "dark noise": np.abs(noise(stack, 0.04)),
    }[value]
    assert kinds(with_slice(stack, number, new)) == [("empty", number)]


@pytest.mark.parametrize(
    ("stack", "change", "number"), pairs_first(STACKS, ["exact", "noise", "gain"], [1, 6, 11]), indirect=["stack"]
)
def test_a_slice_that_is_the_one_before_is_named(stack, change, number):
    before = stack[number - 1].astype(float)
    new = {"exact": before, "noise": before + noise(stack, 0.03), "gain": before * 1.1}[change]
    assert kinds(with_slice(stack, number, new)) == [("doubled", number)]


@pytest.mark.parametrize(
    ("stack", "way", "fill"),
    pairs_first(STACKS, [(36, 0), (0, -40), (32, 24)], ["wrapped", "black"]),
    indirect=["stack"],
)
def test_a_shifted_slice_is_named_with_how_far(stack, way, fill):
    new = np.roll(stack[6], way, (0, 1)) if fill == "wrapped" else ndimage.shift(stack[6] * 1.0, way, order=0)
    (fault,) = found(with_slice(stack, 6, new))
    assert (fault.kind, fault.number) == ("shifted", 6)
    assert fault.amount == pytest.approx(np.hypot(*way), abs=8)


def shifted(values, numbers, way):
    changed = values.copy()
    for number in numbers:
        changed[number] = np.roll(values[number], way, (0, 1))
    return changed


@pytest.mark.parametrize("numbers", [(5, 6), (5, 6, 7), (2, 3, 4, 5), (1, 2), (3, 5), (1, 3, 5, 8, 9)])
@pytest.mark.parametrize("way", [(36, 0), (24, -32)])
def test_slices_that_are_shifted_together_or_in_turns_are_named(numbers, way):
    faults = found(shifted(sections(), numbers, way))
    assert sorted((fault.kind, fault.number) for fault in faults) == [("shifted", number) for number in numbers]
    assert all(fault.amount == pytest.approx(np.hypot(*way), abs=8) for fault in faults)
    assert len(kinds(shifted(sections()[:5], (1, 3), way))) == 2


def test_slices_from_a_jump_on_are_named_by_the_first():
    values = isotropic()
    values[10:] = np.roll(values[10:], (18, -12), (1, 2))
    (fault,) = found(values)
    assert (fault.kind, fault.number, fault.other) == ("moved", 10, 9)
    assert fault.amount == pytest.approx(np.hypot(18, 12), abs=3)


def test_a_stack_that_drifts_steadily_has_no_faults():
    values = np.stack([np.roll(plane, (2 * z, z), (0, 1)) for z, plane in enumerate(isotropic())])
    assert found(values) == ()


@pytest.mark.parametrize(
    ("stack", "number", "factor", "around"),
    pairs_first(STACKS, [0, 5, 11], [0.1, 0.2], ["mean", "zero"]),
    indirect=["stack"],
)
def test_a_slice_of_little_contrast_is_named_with_how_little(stack, number, factor, around):
    middle = stack.mean() if around == "mean" else 0.0
    (fault,) = found(with_slice(stack, number, (stack[number] - middle) * factor + middle))
    assert (fault.kind, fault.number) == ("contrast", number)
    assert fault.amount == pytest.approx(factor, rel=0.5)


def test_contrast_that_falls_slowly_is_none():
    values = isotropic().astype(np.float32)
    assert found(values * np.geomspace(1, 0.2, len(values)).astype(np.float32)[:, None, None]) == ()


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_slice_far_darker_or_brighter_is_named(sign):
    values = isotropic().astype(np.float32)
    (fault,) = found(with_slice(values, 7, values[7] + sign * 3 * values.std()))
    assert (fault.kind, fault.number, fault.amount) == ("brightness", 7, sign)


def test_a_slice_out_of_focus_is_named(stack):
    assert kinds(with_slice(stack, 4, ndimage.gaussian_filter(stack[4].astype(float), 4))) == [("blurred", 4)]


def test_a_slice_of_noise_is_named(stack):
    assert kinds(with_slice(stack, 4, stack.mean() + noise(stack, 1.0))) == [("noisy", 4)]


def test_several_faults_of_one_stack_are_all_named():
    values = isotropic()
    values[3] = 0
    values[8] = np.roll(values[8], (20, 15), (0, 1))
    values[14] = ((values[14] - 128.0) * 0.1 + 128).astype(np.uint8)
    values[20] = values[19]
    assert sorted(kinds(values)) == [("contrast", 14), ("doubled", 20), ("empty", 3), ("shifted", 8)]


def test_a_single_image_has_no_slices_to_compare():
    assert found(sections()[0]) == ()
    assert found(sections()[:1]) == ()


@pytest.mark.parametrize("count", [2, 3])
def test_the_faults_of_very_few_slices_are_named(count):
    values = isotropic()[:count]
    assert found(values) == ()
    assert kinds(with_slice(values, 1, values[0] * 0.0)) == [("empty", 1)]
    assert kinds(with_slice(values, 1, values[0])) == [("doubled", 1)]
    assert kinds(with_slice(values, 1, (values[1] - 128.0) * 0.1 + 128)) == [("contrast", 1)]


def test_two_slices_of_sections_are_not_compared_with_what_is_usual():
    assert found(sections()[4:6]) == ()


def test_each_time_of_a_series_is_judged_by_itself():
    series = np.stack([isotropic(), isotropic() // 4])
    assert found(series, "TZYX") == ()
    series[1, 5] = 0
    assert found(series, "TZYX") == (SliceFault("empty", 5, time=1),)


def test_times_of_an_image_without_z_are_its_slices():
    frames = isotropic()
    frames[7] = 0
    assert found(frames, "TYX") == (SliceFault("empty", 7, frame=True),)


def test_each_channel_is_judged_by_itself():
    both = np.stack([isotropic(), 255 - isotropic()])
    both[1, 4] = both[1, 3]
    assert found(both, "CZYX") == (SliceFault("doubled", 4, other=3, channel=1),)


class Chunked:
    """A large array of which the same sections come again and again, with the sum of what was read of it."""

    chunks = (16, 64, 64)

    def __init__(self, shape):
        self._values, self.shape, self.dtype, self.read = sections((8, 512, 512)), shape, np.dtype(np.uint8), []

    def __getitem__(self, key):
        z, y, x = key
        planes = [(4 - abs(number % 8 - 4)) for number in range(self.shape[0])[z]]
        self.read.append((len(planes), len(range(self.shape[1])[y]), len(range(self.shape[2])[x])))
        rows, columns = (np.arange(length)[part] % 512 for length, part in zip(self.shape[1:], (y, x), strict=True))
        return self._values[np.ix_(planes, rows, columns)]


def test_of_a_large_volume_little_is_read_a_chunk_of_slices_at_a_time():
    volume = Chunked((64, 8000, 9000))
    run_to_end(iter_slice_faults(Stack(volume, Space("ZYX"))))
    voxels = [np.prod(part) for part in volume.read]
    assert sum(voxels) < 0.01 * np.prod(volume.shape)
    assert max(voxels) <= 2**24
    large = [part for part in volume.read if part[0] > 1]
    assert {part[0] for part in large} == {16}, "slices of one chunk are read together"
    assert sum(part[0] for part in large if part[1] == 512) == 64, "each slice is looked at once"


def test_of_very_many_slices_smaller_windows_are_read():
    volume = Chunked((40, 600, 600))
    run_to_end(iter_sample_slices(Stack(volume, Space("ZYX")), "Z", {}, most_voxels=40 * 256**2))
    assert {part[1] for part in volume.read} == {256}


@pytest.mark.parametrize("way", [(0, 0), (5, -9), (-30, 12)])
def test_a_phase_correlation_tells_a_shift_to_a_pixel(way):
    picture = isotropic((1, 256, 256))[0].astype(np.float32)
    correlation = PhaseCorrelation(picture.shape)
    still, moved = correlation.spectrum(picture), correlation.spectrum(np.roll(picture, way, (0, 1)))
    shift, peak = correlation.shift(moved, still)
    assert shift == pytest.approx(way, abs=1)
    assert peak > 10


def test_pictures_of_noise_have_no_peak():
    generator = np.random.default_rng(0)
    correlation = PhaseCorrelation((256, 256))
    pairs = [[correlation.spectrum(generator.normal(size=(256, 256))) for _ in range(2)] for _ in range(30)]
    peaks = [correlation.shift(*pair)[1] for pair in pairs]
    assert np.median(peaks) < 5
    assert max(peaks) < 7


def test_sentences_name_slices_as_the_viewer_counts_them():
    faults = (
        SliceFault("empty", 3),
        SliceFault("empty", 17),
        SliceFault("doubled", 12, other=11),
        SliceFault("shifted", 8, 14.2),
        SliceFault("contrast", 5, 0.11),
        SliceFault("contrast", 9, 3.0),
        SliceFault("brightness", 6, -1.0),
    )
    assert describe_faults(faults) == (
        "Slices 3 and 17 are empty.",
        "Slice 12 equals slice 11.",
        "Slice 8 is shifted by about 14 pixels against its neighbours.",
        "Slice 5 has a tenth of the contrast of the others.",
        "Slice 9 has 3.0 times the contrast of the others.",
        "Slice 6 is far darker than the others.",
    )


def test_sentences_of_a_series_name_the_time():
    assert describe_faults((SliceFault("empty", 2, time=4), SliceFault("empty", 3, time=4))) == (
        "Time 4: slices 2 and 3 are empty.",
    )
    assert describe_faults((SliceFault("empty", 2, frame=True),)) == ("Time 2 is empty.",)
    assert describe_faults((SliceFault("empty", 2, channel=1),)) == ("Channel 1: slice 2 is empty.",)


def test_many_slices_make_a_short_sentence():
    assert in_list([4, 5, 6, 9, 10]) == "4-6, 9 and 10"
    assert in_list(range(0, 60, 2)).endswith("and 18 more")
    told = describe_faults([SliceFault("shifted", number, 10.0 + number) for number in range(50)])
    assert len(told) == 13
    assert "38 more" in told[-1]


@pytest.mark.data
@pytest.mark.parametrize("name", RAW)
def test_undisturbed_real_stacks_give_no_alarm(data_folder, name):
    values = tifffile.imread(data_folder / name)
    assert found(values) == ()


@pytest.mark.data
@pytest.mark.parametrize("way", [(40, 0), (0, 40), (24, -32)])
@pytest.mark.parametrize(
    ("numbers", "depth"), [((3,), 25), ((0,), 25), ((5, 6), 25), ((5, 6, 7, 8), 25), ((3, 4, 9), 25), ((1, 3), 5)]
)
def test_sections_that_jump_by_themselves_have_larger_shifts_named(data_folder, numbers, depth, way):
    values = tifffile.imread(data_folder / RAW[0])[:depth]
    faults = kinds(shifted(values, numbers, way))
    assert sorted(faults) == [("shifted", number) for number in numbers]


@pytest.mark.data
@pytest.mark.parametrize("name", RAW[:6])
def test_a_disturbed_real_stack_has_its_faults_named(data_folder, name):
    values = tifffile.imread(data_folder / name)[:14]  # of the ISBI test stack, slices 9 and 10 hardly correlate
    at = len(values) // 2
    values[len(values) - 2] = 0
    middle = values[at].mean()
    values[at] = ((values[at] - middle) * 0.1 + middle).astype(values.dtype)
    values[at - 3] = np.roll(values[at - 3], (48, -36), (0, 1))
    named = set(kinds(values))
    assert {("empty", len(values) - 2), ("contrast", at)} <= named
    assert any(number == at - 3 and kind in ("shifted", "unmatched") for kind, number in named)
