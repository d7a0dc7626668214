"""What labkit has and stands on: techniques, machine, stored Runs, each as plain data and as rows of a table."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from labkit.core.run import Run
from labkit.optimizations import CATALOG, Optimization
from labkit.optimizations.base import CUDA
from labkit.ui import units
from labkit.ui.facts import flat, lesson_of
from labkit.ui.language import tr

Rows = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Head and body of a table."""


def catalog() -> list[dict[str, Any]]:
    """Every technique with its knobs, in catalog order; `missing` says why this machine cannot have it."""
    return [_technique(kind) for kind in CATALOG]


def _technique(kind: type[Optimization]) -> dict[str, Any]:
    lesson = lesson_of(kind)
    return {
        "name": kind.name,
        "title": kind.title,
        "slot": kind.slot.value,
        "exact": kind.exact,
        "systems": list(kind.systems),
        "needs": [need.name for need in kind.needs],
        "requires": list(kind.requires),
        "conflicts": dict(kind.conflicts),
        "knobs": {spec.name: {"default": spec.default, **spec.metadata} for spec in fields(kind)},
        "missing": [f"{need.name}: {reason}" for need in kind.needs if (reason := need.missing())],
        "lesson": list(lesson.paragraphs),
    }


def catalog_rows(techniques: Sequence[Mapping[str, Any]]) -> Rows:
    """The catalog as a table."""
    head = ("name", "what", "slot", "output", "knobs", "available")
    return head, [
        (
            technique["name"],
            technique["title"],
            technique["slot"],
            "exact" if technique["exact"] else "approximate",
            "\n".join(_knob(name, rule) for name, rule in technique["knobs"].items()),
            "; ".join(technique["missing"]) or "yes",
        )
        for technique in techniques
    ]


def _knob(name: str, rule: Mapping[str, Any]) -> str:
    kinds = list(map(str, rule["choices"]))
    if rule["is_open"]:
        kinds.append("any other text" if kinds else "any text")
    allowed = " | ".join(kinds) or f"{rule['low']:.15g} … {rule['high']:.15g}"
    return f"{name}={rule['default']!r}: {rule['help']} ({allowed})"


def doctor() -> dict[str, Any]:
    """The machine, its free memory, tools, ceilings, what the harness adds, and where Runs are kept."""
    from labkit.bench.ceilings import ceilings
    from labkit.bench.overhead import null_overhead
    from labkit.core.machine import free_memory_bytes, machine
    from labkit.core.paths import cache_folder, home
    from labkit.runner.store import FILE_NAME

    tools = {name: shutil.which(name) for name in ("gcc", "g++", "make", "git", "chromium", "nvidia-smi")}
    gpu = {} if CUDA.missing() else {"gpu_ceilings": ceilings("cuda", cache_folder(), None).to_dict()}
    return {
        "machine": machine().to_dict(),
        "free_memory_bytes": free_memory_bytes(),
        "tools": tools,
        "ceilings": ceilings("cpu", cache_folder(), None).to_dict(),
        **gpu,
        "overhead": asdict(null_overhead()),
        "store": str(home() / FILE_NAME),
    }


def doctor_facts(found: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """What `doctor` found, as titled lists of names and values."""
    here = {name: path or "not found" for name, path in found["tools"].items()}
    memory = {"free memory": units.size(found["free_memory_bytes"])}
    gpu = {"Ceilings of the GPU": _ceilings(found["gpu_ceilings"])} if "gpu_ceilings" in found else {}
    return {
        "Machine": flat(found["machine"]) | memory,
        "Tools": here,
        "Ceilings": _ceilings(found["ceilings"]),
        **gpu,
        "Harness": flat(found["overhead"]),
        "Store": {"runs": found["store"]},
    }


def _ceilings(ceilings: Mapping[str, Any]) -> dict[str, str]:
    reads = {f"read, {units.size(size)}": units.bandwidth(rate) for size, rate in ceilings["read_bytes_per_s"]}
    products = {f"product, {dtype}": units.arithmetic(rate) for dtype, rate in ceilings["flops_per_s"].items()}
    others = {
        "one operation": units.seconds(ceilings["dispatch_s"]),
        "core time of others meanwhile": units.percent(ceilings["contention"]),
    }
    if ceilings["link_bytes_per_s"] is not None:
        others["link to the CPU's memory"] = units.bandwidth(ceilings["link_bytes_per_s"])
    return {"device": ceilings["name"], **reads, **products, **others}


def run_rows(runs: Sequence[Run]) -> Rows:
    """Stored Runs as a table."""
    head = ("run", "session", "made (UTC)", "model", "workload", "device", "recipe", "state")
    return tuple(map(tr, head)), [
        (
            run.id,
            run.group,
            run.created_utc[:19],
            str(run.model.get("name", "")),
            str(run.workload.get("name", "")),
            run.device,
            run.label,
            tr("valid") if run.is_valid else ", ".join(fault.code for fault in run.faults) or tr(run.status),
        )
        for run in runs
    ]
