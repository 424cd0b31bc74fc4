"""OME-XML in companion files and sets of files: metadata are read, and only files beside them are opened."""

import json
import os
import sys

import numpy as np
import pytest
import tifffile
from run_python import run_python
from several import smooth

from napari_skipseg.errors import FileError
from napari_skipseg.images.choice import SeveralImagesError
from napari_skipseg.images.files import list_images, read_recipe, read_stack
from napari_skipseg.images.set_files import find_beside, is_plain_name

STACK = smooth((3, 16, 20))
NAMESPACE = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
needs_links = pytest.mark.skipif(sys.platform == "win32", reason="links and pipes need rights there")


def image_xml(files, number=0, depth=3, more=""):
    """Return an <Image> whose planes lie in `files`, the first of each: (name, UUID, number of planes)."""
    data, first = "", 0
    for name, uuid, planes in files:
        told = f'<UUID FileName="{name}">urn:uuid:{uuid}</UUID>' if name else ""
        data += f'<TiffData FirstZ="{first}" IFD="0" PlaneCount="{planes}">{told}</TiffData>'
        first += planes
    sizes = " ".join(f'PhysicalSize{a}="{n}" PhysicalSize{a}Unit="nm"' for a, n in (("X", 4), ("Y", 4), ("Z", 50)))
    return (
        f'<Image ID="Image:{number}" Name="P{number}"><Pixels ID="Pixels:{number}" DimensionOrder="XYZCT" Type="uint8" '
        f'SizeX="20" SizeY="16" SizeZ="{depth}" SizeC="1" SizeT="1" {sizes}><Channel ID="Channel:{number}:0" '
        f'SamplesPerPixel="1"/>{data}{more}</Pixels></Image>'
    )


def ome(body, uuid):
    return f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="{NAMESPACE}" UUID="urn:uuid:{uuid}">{body}</OME>'


def write(path, values, xml):
    description = xml.encode("ascii", "xmlcharrefreplace")
    tifffile.imwrite(path, values, metadata=None, description=description, photometric="minisblack")
    return path


def with_companion(folder, companion="em.companion.ome"):
    """Write a TIFF whose metadata lie in a companion, and return both paths."""
    (folder / companion).write_text(ome(image_xml([("em.ome.tif", 2, 3)]), 1))
    binary = ome(f'<BinaryOnly MetadataFile="{companion}" UUID="urn:uuid:1"/>', 2)
    return write(folder / "em.ome.tif", STACK, binary), folder / companion


# --- companions ------------------------------------------------------------------------------------------------------


def test_the_metadata_of_a_companion_are_read_and_opening_it_opens_the_image(tmp_path):
    for path in with_companion(tmp_path):
        stack = read_stack(path)
        assert (stack.name, stack.space.axes, stack.space.voxel_size, stack.space.unit) == (
            "em",
            "ZYX",
            (50.0, 4.0, 4.0),
            "nm",
        )
        assert stack.file == str(path)
        assert np.array_equal(stack.data, STACK)
        assert read_recipe(path) is None
        assert len(list_images(path)) == 1


def test_a_companion_may_be_another_tiff_or_utf_16(tmp_path):
    path, companion = with_companion(tmp_path)
    companion.write_bytes(companion.read_text().replace("UTF-8", "UTF-16").encode("utf-16"))
    assert read_stack(path).space.unit == read_stack(companion).space.unit == "nm"
    write(tmp_path / "master.ome.tif", STACK[0], ome(image_xml([("em.ome.tif", 2, 3)]), 1))
    write(path, STACK, ome('<BinaryOnly MetadataFile="master.ome.tif" UUID="urn:uuid:1"/>', 2))
    assert np.array_equal(read_stack(path).data, STACK)
    assert read_stack(path).space.unit == "nm"


def test_planes_of_one_image_in_several_files_come_in_their_order(tmp_path):
    files = [(f"p{z}.ome.tif", z + 5, 1) for z in range(3)]
    (tmp_path / "set.companion.ome").write_text(ome(image_xml(files), 1))
    for z, (name, uuid, _) in enumerate(files):
        write(tmp_path / name, STACK[z], ome('<BinaryOnly MetadataFile="set.companion.ome" UUID="urn:uuid:1"/>', uuid))
    for name in ("set.companion.ome", "p0.ome.tif", "p2.ome.tif"):
        assert np.array_equal(read_stack(tmp_path / name).data, STACK)


def test_a_file_of_a_set_gives_its_own_image_and_a_companion_names_all(tmp_path):
    both = "".join(image_xml([(f"p{number}.ome.tif", number + 5, 3)], number) for number in range(2))
    (tmp_path / "set.companion.ome").write_text(ome(both, 1))
    for number in range(2):
        binary = ome('<BinaryOnly MetadataFile="set.companion.ome" UUID="urn:uuid:1"/>', number + 5)
        write(tmp_path / f"p{number}.ome.tif", STACK + np.uint8(number), binary)
    for number in range(2):
        stack = read_stack(tmp_path / f"p{number}.ome.tif")
        assert np.array_equal(stack.data, STACK + np.uint8(number))
        assert f"P{1 - number}" in stack.notes[0]
        assert np.array_equal(read_stack(tmp_path / "set.companion.ome", image=number).data, STACK + np.uint8(number))
        assert np.array_equal(read_stack(tmp_path / "p0.ome.tif", image=number).data, STACK + np.uint8(number))
    with pytest.raises(SeveralImagesError, match=r"0: P0, .*; 1: P1"):
        read_stack(tmp_path / "set.companion.ome")
    (tmp_path / "p1.ome.tif").unlink()
    assert np.array_equal(read_stack(tmp_path / "p0.ome.tif").data, STACK)


def test_what_is_missing_or_broken_of_a_set_is_told(tmp_path):
    path, companion = with_companion(tmp_path)
    text = companion.read_text()
    for content, told in (
        ("<OME", "is no OME-XML"),
        ("<a/>", "is no OME-XML"),
        (ome("", 1), "names no image"),
        (text.replace("em.ome.tif", "other.ome.tif"), "needs 'other.ome.tif' beside it, which is missing"),
        (text.replace("<OME", '<!DOCTYPE a [<!ENTITY b "c">]><OME'), "unsafe"),
    ):
        companion.write_text(content)
        with pytest.raises(FileError, match=told):
            read_stack(companion)
    companion.unlink()
    with pytest.raises(FileError, match=r"needs 'em\.companion\.ome' beside it, which is missing"):
        read_stack(path)


# --- other files -----------------------------------------------------------------------------------------------------

ELSEWHERE = (
    "../secret.tif",
    "sub/secret.tif",
    "/dev/zero",
    "/dev/stdin",
    "..",
    "..\\secret.tif",
    "C:\\secret.tif",
    "C:secret.tif",
    "\\\\server\\share\\secret.tif",
    "//server/share/secret.tif",
    "secret.tif:stream",
    "CON",
    "nul.tif",
    "com1.ome.tif",
    "LPT².tif",
    "secret.tif ",
    "secret.tif.",
    "a*.tif",
)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_name_that_is_no_plain_name_is_never_opened(tmp_path, name):
    assert not is_plain_name(name)
    tifffile.imwrite(tmp_path / "secret.tif", np.full((16, 20), 42, np.uint8))
    folder = tmp_path / "shared"
    folder.mkdir()
    files = [("a.ome.tif", 0, 1), (name, 1, 2)]
    path = write(folder / "a.ome.tif", STACK[0], ome(image_xml(files), 0))
    with pytest.raises(FileError, match="names a file in a different place"):
        read_stack(path)
    path = write(folder / "b.ome.tif", STACK[0], ome(f'<BinaryOnly MetadataFile="{name}" UUID="urn:uuid:1"/>', 2))
    with pytest.raises(FileError, match="names a file in a different place"):
        read_stack(path)


def test_an_absolute_name_is_never_opened(tmp_path):
    tifffile.imwrite(tmp_path / "secret.tif", np.full((16, 20), 42, np.uint8))
    files = [("a.ome.tif", 0, 1), (str(tmp_path / "secret.tif"), 1, 2)]
    with pytest.raises(FileError, match="names a file in a different place"):
        read_stack(write(tmp_path / "a.ome.tif", STACK[0], ome(image_xml(files), 0)))


@needs_links
def test_pipes_folders_and_links_to_other_folders_beside_a_file_are_not_opened(tmp_path):
    folder = tmp_path / "shared"
    folder.mkdir()
    tifffile.imwrite(tmp_path / "secret.tif", np.full((16, 20), 42, np.uint8))
    os.mkfifo(folder / "pipe.tif")
    (folder / "folder.tif").mkdir()
    (folder / "link.tif").symlink_to(tmp_path / "secret.tif")
    (folder / "device.tif").symlink_to("/dev/zero")
    for name in ("pipe.tif", "folder.tif", "link.tif", "device.tif"):
        files = [("a.ome.tif", 0, 1), (name, 1, 2)]
        path = write(folder / "a.ome.tif", STACK[0], ome(image_xml(files), 0))
        with pytest.raises(FileError, match=r"is no regular file|is a link to a different folder"):
            read_stack(path)
    tifffile.imwrite(folder / "real.tif", STACK[1:], metadata=None, photometric="minisblack")
    (folder / "near.tif").symlink_to(folder / "real.tif")
    files = [("a.ome.tif", 0, 1), ("near.tif", 1, 2)]
    assert np.array_equal(read_stack(write(folder / "a.ome.tif", STACK[0], ome(image_xml(files), 0))).data, STACK)


@needs_links
def test_a_pipe_or_a_device_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.tif")
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.tif", tmp_path / "pipe.png", "/dev/zero"):
        with pytest.raises(FileError, match=r"is a pipe or a device|is no PNG"):
            read_stack(path)


def test_plain_names_are_found(tmp_path):
    for name in ("a.tif", "Größe 3.ome.tif", "a-b_c(1).tif", "con_1.tif", ".hidden.tif"):
        assert is_plain_name(name)
        (tmp_path / name).write_bytes(b"a")
        assert find_beside(tmp_path / "x.ome.tif", name) == tmp_path / name


# --- claims ----------------------------------------------------------------------------------------------------------

MODULO = (
    '<StructuredAnnotations><XMLAnnotation ID="Annotation:0" Namespace="openmicroscopy.org/omero/dimension/modulo">'
    '<Value><Modulo><ModuloAlongT Type="lifetime" Start="0" End="1e9" Step="1"/></Modulo></Value></XMLAnnotation>'
    "</StructuredAnnotations>"
)
CLAIMS = {
    "one image": image_xml([], depth=4_000_000, more="<TiffData/>"),
    "many images": "".join(image_xml([], n, 4_000_000, "<TiffData/>") for n in range(60)),
    "images that share the claim": "".join(image_xml([], n, 900, "<TiffData/>") for n in range(60)),
    "many elements": image_xml([], depth=900, more='<TiffData IFD="0" PlaneCount="900"/>' * 200),
    "a count": image_xml([], depth=1, more='<TiffData IFD="0" PlaneCount="2000000000"/>'),
    "modulo": image_xml([("", 0, 3)]) + MODULO,
    "attributes": image_xml([("", 0, 3)]) + ("<a " + " ".join(f"b{n}='c'" for n in range(300)) + "/>") * 4000,
    "deep": image_xml([("", 0, 3)]) + "<a>" * 299_000 + "</a>" * 299_000,
}

READ = """
    import json, resource, sys, time
    from pathlib import Path
    from napari_skipseg.errors import SkipsegError
    from napari_skipseg.images.files import list_images, read_recipe, read_stack
    found = {}
    for path in sys.argv[1:]:
        for read in (read_stack, read_recipe, list_images):
            begun = time.process_time()
            try:
                result = read(path)
                if read is read_stack:
                    result.read((slice(0, 1),) * len(result.shape))
                found.setdefault(path, "")
            except SkipsegError as error:
                found[path] = found.get(path) or str(error)
            assert time.process_time() - begun < 2, (path, read, time.process_time() - begun)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(json.dumps([found, int(status["VmHWM"].split()[0])]))
"""


def read_in_a_process(*paths):
    """Return what opening files said, "" where they were read; below 2 s each and 512 MiB."""
    done = run_python(READ, *paths)
    assert done.returncode == 0, done.stderr
    found, peak = json.loads(done.stdout)
    assert peak < 512 * 1024
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads its memory from /proc")
def test_claims_of_an_ome_xml_cost_little_and_get_a_sentence(tmp_path):
    paths = {}
    for number, (kind, body) in enumerate(CLAIMS.items()):
        paths[kind] = write(tmp_path / f"{number}.ome.tif", STACK[:1] if kind != "modulo" else STACK, ome(body, 0))
    found = read_in_a_process(*paths.values())
    said = {kind: found[str(path)] for kind, path in paths.items()}
    assert all(said.values()), said
    assert all("\n" not in sentence and sentence.endswith(".") for sentence in said.values())


@pytest.mark.parametrize("body", ["<a>&l9;</a>", "&l9;"])
def test_entities_of_any_metadata_are_refused(tmp_path, body):
    entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    for head, tail in (
        ("<OME>", "</OME>"),
        ('<DataObject ObjectType="DPUfsImport">', "</DataObject>"),
        ("<scn>", "</scn>"),
    ):
        xml = f'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY l0 "lol">{entities}]>{head}{body}{tail}'
        with pytest.raises(FileError, match="unsafe"):
            read_stack(write(tmp_path / "a.tif", STACK[0], xml))
