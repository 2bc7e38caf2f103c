"""Turns one file that Blender imports into a plain GLB; runs inside the render environment.

    python -I blender_convert.py SOURCE TARGET.glb MEMORY_BYTES CPU_SECONDS

Exit code 3 and a line that starts with '@reason ' say why the file is refused; any other code is
damage that the importers did not foresee. Started by `data_prep.objects.convert`.
"""

import os
import resource
import sys
from pathlib import Path

# Started without the package's root, so that nothing else comes from there.
sys.path.append(str(Path(__file__).resolve().parents[2]))

from data_prep.fanout.lifetime import die_with_parent

EXIT_REFUSED = 3
MOST_FILE_BYTES = 2_000_000_000
REASON = "@reason "


class RefusedError(Exception):
    """The file cannot be converted; the message says why."""


def bound(memory_bytes: int, seconds: int) -> None:
    """Bounds memory, processor time and the size of files for this process, for good."""
    die_with_parent()
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_FILE_BYTES, MOST_FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    cores = len(os.sched_getaffinity(0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds * cores, seconds * cores))


def load(source: Path) -> None:
    """Imports a file into an empty scene with Blender's importer for its suffix."""
    import bpy

    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.context.preferences.filepaths.use_scripts_auto_execute = False
    suffix = source.suffix.lower()
    if suffix == ".fbx":
        bpy.ops.wm.fbx_import(filepath=str(source), use_anim=False)
    elif suffix.startswith(".usd"):
        check_usd(source)
        bpy.ops.wm.usd_import(
            filepath=str(source),
            import_cameras=False,
            import_lights=False,
            import_volumes=False,
            set_frame_range=False,
            # Pictures beside the file keep their paths, which `check_pictures` looks at.
            import_textures_mode="IMPORT_PACK" if suffix == ".usdz" else "IMPORT_NONE",
        )
    elif suffix in (".glb", ".gltf"):
        bpy.ops.import_scene.gltf(filepath=str(source), import_pack_images=True)
    else:
        raise RefusedError(f"no importer for {suffix!r}")


def check_usd(source: Path) -> None:
    """Refuses a USD that needs what is missing or outside its own folder.

    Blender's importer would leave out the one without an error, and follow the other.
    """
    import bpy

    bpy.utils.expose_bundled_modules()
    from pxr import Sdf, Usd

    folder = source.parent.resolve()
    stage = Usd.Stage.Open(str(source))
    for error in stage.GetCompositionErrors():
        raise RefusedError(f"a part of it is missing: {error}")
    for layer in stage.GetUsedLayers():
        if layer.realPath and not _is_within(layer.realPath, folder):
            raise RefusedError(f"it refers to {layer.identifier[-60:]!r} outside its own folder")
    for prim in stage.TraverseAll():
        for attribute in prim.GetAttributes():
            value = attribute.Get() if attribute.GetName().endswith("file") else None
            if not isinstance(value, Sdf.AssetPath) or not value.path:
                continue
            name = value.path[-60:]
            if not value.resolvedPath:
                raise RefusedError(f"texture {name!r} is missing")
            if not _is_within(value.resolvedPath, folder):
                raise RefusedError(f"texture {name!r} is outside the object's own folder")


def _is_within(path: str, folder: Path) -> bool:
    """Whether a path of USD's is in the folder; 'a.usdz[b.png]' is a file within a package."""
    return Path(path.split("[")[0]).resolve().is_relative_to(folder)


def check_pictures(folder: Path) -> None:
    """Refuses pictures that are missing, damaged, or outside the object's own folder."""
    import bpy

    for image in bpy.data.images:
        if image.source != "FILE" or not image.users:
            continue
        name = image.name[:60]
        if image.packed_file is None:
            place = Path(bpy.path.abspath(image.filepath)).resolve()
            if not place.is_relative_to(folder):
                raise RefusedError(f"texture {name!r} is outside the object's own folder")
            if not place.is_file():
                raise RefusedError(f"texture {name!r} is missing")
        if min(image.size) == 0:
            raise RefusedError(f"texture {name!r} is no picture that Blender reads")


def save(target: Path) -> None:
    """Exports all surfaces as a GLB without anything that moves, shines or films."""
    import bpy

    if not any(thing.type in ("MESH", "CURVE", "SURFACE", "META") for thing in bpy.data.objects):
        raise RefusedError("there is no surface in it")
    bpy.ops.export_scene.gltf(
        filepath=str(target),
        export_format="GLB",
        export_apply=True,
        export_animations=False,
        export_skins=False,
        export_morph=False,
        export_cameras=False,
        export_lights=False,
        export_extras=False,
        export_draco_mesh_compression_enable=False,
        export_yup=True,
    )


def main(arguments: list[str]) -> int:
    """Converts one file; 0 or EXIT_REFUSED."""
    source, target = (Path(argument) for argument in arguments[:2])
    bound(int(arguments[2]), int(arguments[3]))
    try:
        load(source)
        check_pictures(source.parent.resolve())
        save(target)
    except (RefusedError, RuntimeError) as error:  # RuntimeError: an operator of Blender's
        text = " ".join(str(error).split())
        print(f"{REASON}{text[-300:]}", flush=True)
        return EXIT_REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
