"""Pixel sizes that makers of microscopes keep in tags of their own are read; damaged tags are as good as none."""

import json
import struct

import numpy as np
import pytest
import tifffile
from tifffile import TIFF

from napari_skipseg.images.files import read_stack

HEIGHT, WIDTH = 24, 32
BYTE, TEXT, SHORT, LONG, RATIONAL, UNDEFINED, DOUBLE = 1, 2, 3, 4, 5, 7, 12


def image(planes=1):
    values = np.random.default_rng(0).integers(1, 200, (planes, HEIGHT, WIDTH), "uint8")
    return values[0] if planes == 1 else values


def write_tagged(path, values, *tags):
    """Write a TIFF with tags of a maker by tifffile; each is code, type and value."""
    extra = [(code, kind, 0 if kind == TEXT else 1, value, True) for code, kind, value in tags]
    tifffile.imwrite(path, values, photometric="minisblack", metadata=None, extratags=extra)
    return path


def write_raw(path, values, tags, pages=1, reduced=()):
    """Write a TIFF byte by byte, whose first page bears `tags`: (code, type, count, content of any length).

    content may be a function of the offset at which it will lie. reduced: which pages are thumbnails.
    """
    planes = values.reshape(-1, HEIGHT, WIDTH)
    content, entries = bytearray(b"II*\0\0\0\0\0"), []
    data_at = len(content)
    content += planes.tobytes()
    last = 4
    for number in range(pages):
        size = planes[0].nbytes * (len(planes) // pages)
        entries = [
            (254, LONG, 1, int(number in reduced)),
            (256, LONG, 1, WIDTH),
            (257, LONG, 1, HEIGHT),
            (258, SHORT, 1, 8),
            (259, SHORT, 1, 1),
            (262, SHORT, 1, 1),
            (273, LONG, 1, data_at + number * size),
            (277, SHORT, 1, 1),
            (278, LONG, 1, HEIGHT),
            (279, LONG, 1, planes[0].nbytes),
        ]
        for code, kind, count, value in tags if number == 0 else ():
            entries.append((code, kind, count, len(content)))
            content += value(len(content)) if callable(value) else value
        content += bytes(len(content) % 2)
        struct.pack_into("<I", content, last, len(content))
        content += struct.pack("<H", len(entries))
        for entry in sorted(entries):
            content += struct.pack("<HHII", *entry)
        last = len(content)
        content += bytes(4)
    path.write_bytes(content)
    return path


def size_of(path):
    stack = read_stack(path)
    return stack.space.voxel_size, stack.space.unit


# --- SEM and TEM -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", [34680, 34682])
@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[Scan]\r\nPixelWidth=4e-09\r\nPixelHeight=4e-09\r\n[Beam]\r\nHV=2000\r\n", (1, 4, 4)),
        ("[User]\r\nDate=1\r\n[EScan]\r\nPixelWidth=3.3726e-009\r\nPixelHeight=4.2e-009\r\n", (1, 4.2, 3.3726)),
        (f"[IRBeam]\r\nHFW={WIDTH * 2e-7}\r\nVFW={HEIGHT * 2e-7}\r\n[Image]\r\nResolutionX={WIDTH}\r\n"
         f"ResolutionY={HEIGHT}\r\n", (1, 200, 200)),
    ],
)  # fmt: skip
def test_fei_and_thermo_fisher(tmp_path, tag, text, found):
    assert size_of(write_tagged(tmp_path / "a.tif", image(), (tag, TEXT, text))) == (found, "nm")


@pytest.mark.parametrize(
    ("lines", "found", "unit"),
    [
        ("AP_IMAGE_PIXEL_SIZE\r\nImage Pixel Size = 4.466 nm\r\n", (1, 4.466, 4.466), "nm"),
        ("AP_MAG\r\nMag = 25.00 K X\r\nAP_PIXEL_SIZE\r\nPixel Size = 0.25 µm\r\n", (1, 0.25, 0.25), "µm"),
        (f"0\r\n0\r\n0\r\n{4e-9 * WIDTH / 1024}\r\n1\r\nAP_MAG\r\nMag = 25.00 K X\r\n", (1, 4, 4), "nm"),
    ],
)
def test_zeiss_sem(tmp_path, lines, found, unit):
    path = write_tagged(tmp_path / "a.tif", image(), (34118, TEXT, lines.encode("cp1252")))
    assert size_of(path) == (found, unit)


def test_gatan_digital_micrograph_of_a_stack(tmp_path):
    tags = [(65003, TEXT, "nm"), (65004, TEXT, "nm"), (65005, TEXT, "µm".encode("latin-1"))]
    tags += [(65009, DOUBLE, 4.0), (65010, DOUBLE, 5.0), (65011, DOUBLE, 0.05)]
    assert size_of(write_tagged(tmp_path / "a.tif", image(3), *tags)) == ((50, 5, 4), "nm")


def test_tvips(tmp_path):
    first = np.zeros((), TIFF.TVIPS_HEADER_V1)
    second = np.zeros((), TIFF.TVIPS_HEADER_V2)
    first["Version"], second["Magic"] = 2, 0xAAAAAAAA
    second["PixelSizeX"], second["PixelSizeY"] = 0.35, 0.4
    header = first.tobytes() + second.tobytes()
    path = write_raw(tmp_path / "a.tif", image(), [(37706, UNDEFINED, len(header), header)])
    assert size_of(path) == ((1, 0.4, 0.35), "nm")


def test_olympus_sis(tmp_path):
    def header(offset):
        start = struct.pack("<4s6xhhhhh6x32sH", b"SIS0", 0, 0, 1, 1, 100, b"em", 1)
        entry = struct.pack("<hhI", 1, 1, offset + len(start) + 8)
        return start + entry + struct.pack("<10xhdd8xd2x34s32s", -9, 4.0, 4.5, 1000.0, b"camera", b"") + bytes(120)

    path = write_raw(tmp_path / "a.tif", image(), [(33560, LONG, 1, header)])
    # The tag's value is the offset at which the structure lies, so tifffile reads it from there.
    assert size_of(path) == ((1, 4.5, 4), "nm")


# --- light microscopes -----------------------------------------------------------------------------------------------


def test_zeiss_lsm_of_a_stack(tmp_path):
    told = np.zeros((), TIFF.CZ_LSMINFO)
    told["MagicNumber"], told["StructureSize"] = 67127628, told.dtype.itemsize
    told["DimensionX"], told["DimensionY"], told["DimensionZ"] = WIDTH, HEIGHT, 3
    told["DimensionChannels"] = told["DimensionTime"] = 1
    told["VoxelSizeX"], told["VoxelSizeY"], told["VoxelSizeZ"] = 0.2e-6, 0.2e-6, 1.5e-6
    tag = (34412, BYTE, told.dtype.itemsize, told.tobytes())
    path = write_raw(tmp_path / "a.lsm", image(6), [tag], pages=6, reduced=(1, 3, 5))
    stack = read_stack(path)
    assert (stack.space.axes, stack.shape) == ("ZYX", (3, HEIGHT, WIDTH))
    assert (stack.space.voxel_size, stack.space.unit) == ((1500, 200, 200), "nm")


def test_metamorph_stk(tmp_path):
    planes = 3
    calibration = struct.pack("<HI", 3, 1) + struct.pack("<HII", 4, 13, 100) + struct.pack("<HII", 5, 13, 100)
    calibration += struct.pack("<HI", 6, 3) + b"um\0" + struct.pack("<H", 0)
    steps = np.tile(np.array([5, 10, 1, 1, 1, 1], "<u4"), planes).tobytes()
    tags = [(33628, LONG, 0, bytes(8)), (33629, RATIONAL, planes, steps), (33631, LONG, planes, calibration)]
    path = write_raw(tmp_path / "a.stk", image(planes), tags)
    stack = read_stack(path)
    assert (stack.space.axes, stack.shape) == ("ZYX", (planes, HEIGHT, WIDTH))
    assert (stack.space.voxel_size, stack.space.unit) == ((0.5, 0.13, 0.13), "µm")


def test_metamorph_metaseries(tmp_path):
    plane = "".join(
        f'<prop id="spatial-calibration-{name}" type="{kind}" value="{value}"/>'
        for name, kind, value in (("state", "bool", "on"), ("x", "float", 0.1625), ("y", "float", 0.1625),
                                  ("units", "string", "um"))
    )  # fmt: skip
    text = f"<MetaData><PlaneInfo>{plane}</PlaneInfo></MetaData>"
    options = {"metadata": None, "software": "MetaSeries", "photometric": "minisblack"}
    tifffile.imwrite(tmp_path / "a.tif", image(), description=text, **options)
    assert size_of(tmp_path / "a.tif") == ((1, 0.1625, 0.1625), "µm")


def test_olympus_fluoview(tmp_path):
    header = np.zeros((), TIFF.MM_HEADER)
    header["Dimensions"]["Size"] = 1
    for number, (name, length, size) in enumerate((("X", WIDTH, 0.2), ("Y", HEIGHT, 0.25), ("Z", 3, 1.0))):
        header["Dimensions"][number] = (name.encode(), length, 0.0, size, b"um")
    tags = [(34361, BYTE, header.dtype.itemsize, header.tobytes()), (34362, DOUBLE, 8, bytes(64))]
    path = write_raw(tmp_path / "a.tif", image(3), tags, pages=3)
    assert size_of(path) == ((1.0, 0.25, 0.2), "µm")


def test_micro_manager_and_aperio(tmp_path):
    told = json.dumps({"PixelSizeUm": 0.65, "Summary": {"z-step_um": 2}})
    assert size_of(write_tagged(tmp_path / "a.tif", image(2), (51123, TEXT, told))) == ((2, 0.65, 0.65), "µm")
    text = "Aperio Image Library v1.0|AppMag = 20|MPP = 0.499"
    tifffile.imwrite(tmp_path / "b.tif", image(), description=text, metadata=None, photometric="minisblack")
    assert size_of(tmp_path / "b.tif") == ((1, 0.499, 0.499), "µm")


def test_leica_scn(tmp_path):
    text = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01"><collection sizeX="32000" '
        f'sizeY="24000"><image name="main"><pixels sizeX="{WIDTH}" sizeY="{HEIGHT}"><dimension sizeX="{WIDTH}" '
        f'sizeY="{HEIGHT}" r="0" ifd="0"/></pixels><view sizeX="{WIDTH * 500}" sizeY="{HEIGHT * 500}" offsetX="0" '
        'offsetY="0"/></image></collection></scn>'
    )
    tifffile.imwrite(tmp_path / "a.scn", image(), description=text, metadata=None, photometric="minisblack")
    assert size_of(tmp_path / "a.scn") == ((1, 500, 500), "nm")


# --- tags that say nothing, or nonsense ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tag", "text"),
    [
        (34682, "[Scan]\r\nPixelWidth=\r\n"),
        (34682, "no sections at all"),
        (34682, "[Scan]\r\nPixelWidth=0\r\nPixelHeight=0\r\n"),
        (34118, "AP_IMAGE_PIXEL_SIZE\r\nImage Pixel Size = unknown\r\n"),
        (51123, "{}"),
        (51123, "[1, 2"),
    ],
)
def test_a_damaged_tag_is_no_size_and_no_fault(tmp_path, tag, text):
    path = write_tagged(tmp_path / "a.tif", image(), (tag, TEXT, text))
    assert size_of(path) == ((1, 1, 1), "pixel")


@pytest.mark.parametrize("value", ["nan", "inf", "1e30", "1e-30"])
def test_a_size_that_makes_no_sense_is_noted_and_not_taken(tmp_path, value):
    text = f"[Scan]\r\nPixelWidth={value}\r\nPixelHeight={value}\r\n"
    stack = read_stack(write_tagged(tmp_path / "a.tif", image(), (34682, TEXT, text)))
    assert (stack.space.voxel_size, stack.space.unit) == ((1, 1, 1), "pixel")
    assert any("makes no sense" in note and "--voxel-size" in stack.notes[-1] for note in stack.notes)


def test_results_of_a_fei_image_keep_its_size_in_ome_tiff(tmp_path):
    from napari_skipseg.images.files import write_ome_tiff

    text = "[Scan]\r\nPixelWidth=1.3e-09\r\nPixelHeight=1.3e-09\r\n"
    stack = read_stack(write_tagged(tmp_path / "a.tif", image(), (34682, TEXT, text)))
    write_ome_tiff(tmp_path / "out.tif", stack.data, stack.space)
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        pixels = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
    assert (pixels["PhysicalSizeX"], pixels["PhysicalSizeXUnit"]) == (1.3, "nm")
