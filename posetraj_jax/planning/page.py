"""A plan as one page of text, drawn from the same numbers that its JSON holds."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Page = Mapping[str, Any]
LARGEST_SHOWN = 8
SMALL = 1e8
"""Bytes below which a table of memory is in MB."""
WIDTH = 100


def render(page: Page) -> str:
    """The page as text; `made.make_page` says what it holds."""
    lines = [_title(page), "", *_verdict(page)]
    for program in page["programs"]:
        lines += ["", f"## {program['name']}" + _runs(program), ""]
        lines += [*_memory(program, page), "", *_work(program), "", *_collectives(program)]
    if page["advice"]:
        lines += ["", "To make it fit:", *(f"  * {advice}" for advice in page["advice"])]
    if page["notes"]:
        lines += ["", *(f"Note: {note}" for note in page["notes"])]
    libraries = ", ".join(f"{name} {version}" for name, version in page["versions"].items())
    seconds = sum(page["seconds"].values())
    lines += ["", f"Compiled at level {page['level']} in {seconds:.0f} s with {libraries}."]
    return "\n".join(lines) + "\n"


def _title(page: Page) -> str:
    mesh = " x ".join(f"{axis} {size}" for axis, size in page["mesh"].items())
    size = " x ".join(str(page["size"][name]) for name in ("frames", "height", "width"))
    return (
        f"# {page['config']} on {page['topology']}\n\n"
        f"{page['devices']} x {page['device_kind']}, mesh {mesh}\n"
        f"{size}, {page['dtype']}, attention {page['attention']}, remat {page['remat']}\n"
        f"{page['clips']} clips per {page['per']}: {page['clips_per_device']:g} per device"
        + (f" in each of {page['passes']} passes" if page["passes"] > 1 else "")
    )


def _verdict(page: Page) -> list[str]:
    if page["fits"] is None:
        return ["Whether it fits is not known: see the note on memory."]
    worst = max(page["programs"], key=lambda program: program["memory"]["total"])
    total, usable = worst["memory"]["total"] / 1e9, page["usable_bytes"] / 1e9
    word = "FITS" if page["fits"] else "DOES NOT FIT"
    lines = [f"{word}: {total:.2f} of {usable:.2f} GB of usable HBM ({total / usable:.0%})"]
    lines += [f"  the compiler: {p['refused']}" for p in page["programs"] if p["refused"]]
    if page["seconds_per_batch"]:
        least, most = page["seconds_per_batch"]
        lines.append(
            f"{page['per'].capitalize()}: {least:.3g} to {most:.3g} s, so "
            f"{page['clips'] / most:.3g} to {page['clips'] / least:.3g} clips/s; "
            f"bound by {page['binding']}"
        )
    return lines


def _runs(program: Page) -> str:
    return f", {program['runs']} times" if program["runs"] > 1 else ""


def _memory(program: Page, page: Page) -> Iterator[str]:
    memory, usable = program["memory"], page["usable_bytes"]
    unit, name = (1e9, "GB") if memory["total"] >= SMALL else (1e6, "MB")
    rows = [(kind, size) for kind, size in memory["arguments"].items()]
    rows += [("activations and temporaries", memory["arena"]), ("generated code", memory["code"])]
    rows.append(("together", memory["total"]))
    yield f"Memory of one device, {name}"
    for kind, size in rows:
        share = f"{size / usable:6.1%}" if usable else ""
        yield f"  {kind:<28} {size / unit:8.2f} {share}".rstrip()
    if not memory["kinds"]:
        return
    yield f"  {'at the fullest moment':<28} {memory['peak'] / unit:8.2f}  in {memory['moment']}"
    for kind, size in sorted(memory["kinds"].items(), key=lambda item: -item[1]):
        yield f"    {kind:<26} {size / unit:8.2f}"
    yield ""
    yield "Largest buffers at that moment"
    for one in memory["largest"][:LARGEST_SHOWN]:
        text = f"  {one['num_bytes'] / unit:7.2f}  {one['type']:<26} {one['kind']:<16}"
        yield _cut(f"{text} {one['source'] or one['operation']}")


def _work(program: Page) -> Iterator[str]:
    tera = [program[name] / 1e12 for name in ("model_flops", "flops", "flops_per_device")]
    again = f" ({tera[1] / tera[0] - 1:.0%} recomputed)" if tera[1] > tera[0] else ""
    yield f"FLOPs: model {tera[0]:.4g} TF, run {tera[1]:.4g} TF{again}, {tera[2]:.4g} TF per device"
    if program["hbm_bytes"]:
        yield f"HBM traffic: {program['hbm_bytes'] / 1e9:.4g} GB per device"
    bounds = program["bounds"]
    if bounds:
        yield "Roofline, ms"
        for name in ("compute", "hbm", "interconnect"):
            mark = "  <- binds" if program["binding"].lower() == name else ""
            yield f"  {name:<28} {1e3 * bounds[name]:8.4g}{mark}"
        if bounds["static"]:
            over = bounds["static"] / bounds["compute"]
            yield f"  {'static estimate':<28} {1e3 * bounds['static']:8.4g}  {over:.2f} x compute"


def _collectives(program: Page) -> Iterator[str]:
    rows: Sequence[Page] = program["collectives"]
    if not rows:
        yield "Collectives: none"
        return
    total = sum(row["num_bytes"] for row in rows)
    yield f"Collectives: {total / 1e9:.4g} GB of whole arrays per device (an all-reduce twice)"
    yield f"  {'kind':<20} {'mesh axis':<14} {'type':<6} {'count':>6} {'GB':>9} {'sent, GB':>9}"
    for row in rows:
        numbers = f"{row['num_bytes'] / 1e9:9.4f} {row['sent_bytes'] / 1e9:9.4f}"
        yield f"  {row['kind']:<20} {row['axis']:<14} {row['dtype']:<6} {row['count']:>6} {numbers}"


def _cut(line: str) -> str:
    return line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"
