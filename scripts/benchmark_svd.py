"""Measure the truncated SVD of a table against numpy.linalg.svd and the matrix products that it cannot do without.

    python scripts/benchmark_svd.py --out svd.md

The table has the singular values of all-MiniLM-L6-v2's own, stretched to the width, so that its tail is a real one; a
second has singular values down to 1e-9 of the largest. The reference is LAPACK in float64.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from pathlib import Path

import numpy as np
import torch
from focus_workers import Measure
from workers import HEADER, Runner

from hf_vocab_extend.surgery.low_rank import factorize_table, principal_basis

SEED = 3
RANKS = (100, 200, 400)


def real_spectrum(width: int) -> torch.Tensor:
    """Return the singular values of MiniLM's table, interpolated to a width, float64."""
    from transfer_data import load_model

    values = torch.linalg.svdvals(load_model().get_input_embeddings().weight.detach().double())
    return torch.from_numpy(np.interp(np.linspace(0, 1, width), np.linspace(0, 1, len(values)), values.numpy()))


def make_table(folder: Path, name: str, n_rows: int, values: torch.Tensor) -> None:
    """Write a float32 table that has these singular values, up to rounding, with random directions."""
    generator = torch.Generator().manual_seed(SEED)
    left = torch.randn(n_rows, len(values), generator=generator, dtype=torch.float64)
    right = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64))[0]
    left = left @ torch.linalg.inv(torch.linalg.cholesky(left.T @ left)).T
    np.save(folder / f"{name}.npy", ((left * values) @ right.T).float().numpy())


def _table(folder: Path, name: str) -> torch.Tensor:
    return torch.from_numpy(np.load(folder / f"{name}.npy"))


def ours(folder: Path) -> dict:
    """The basis, and the factors at each rank."""
    found = {}
    table = _table(folder, "real")
    torch.mm(table[:1000].T, table[:1000])  # threads and libraries are up
    with Measure() as measure:
        basis = principal_basis(table)
    found["basis"] = measure.to_dict()
    for rank in RANKS:
        with Measure() as measure:
            factorize_table(table, rank, basis=basis)
        found[f"rank {rank}"] = measure.to_dict()
    np.save(folder / "ours.npy", basis.values.numpy())
    for name in ("tiny", "small"):
        np.save(folder / f"ours_{name}.npy", principal_basis(_table(folder, name)).values.numpy())
    return found


def floor(folder: Path) -> dict:
    """The Gram product and the product with the directions, in float32, and the eigenvectors."""
    found = {}
    table = _table(folder, "real")
    torch.mm(table[:1000].T, table[:1000])
    with Measure() as measure:
        gram = table.T @ table
    found["gram"] = measure.to_dict()
    with Measure() as measure:
        vectors = torch.linalg.eigh(gram.double())[1].float()
    found["eigh"] = measure.to_dict()
    for rank in RANKS:
        with Measure() as measure:
            table @ vectors[:, -rank:]
        found[f"rank {rank}"] = measure.to_dict()
    return found


def numpy_svd(folder: Path) -> dict:
    """numpy.linalg.svd of the whole table, in float32."""
    table = np.load(folder / "real.npy")
    with Measure() as measure:
        values = np.linalg.svd(table, full_matrices=False)[1]
    np.save(folder / "numpy.npy", values)
    return {"svd": measure.to_dict()}


def float64(folder: Path) -> dict:
    """The reference: singular values by LAPACK in float64."""
    for name in ("real", "tiny", "small"):
        values = torch.linalg.svdvals(torch.linalg.qr(_table(folder, name).double(), mode="r")[1])
        np.save(folder / f"reference_{name}.npy", values.numpy())
    return {}


WORKERS = {"ours": ours, "floor": floor, "numpy": numpy_svd, "reference": float64}


def errors(runner: Runner, folder: Path, label: str, found: str, reference: str) -> None:
    """Say how far singular values are off, relative to themselves at three places, and at worst by the largest one."""
    values, true = np.load(folder / f"{found}.npy"), np.load(folder / f"reference_{reference}.npy")
    off = np.abs(values - true) / true
    places = [0, len(true) // 2, len(true) - 1]
    cells = " | ".join(f"{off[place]:.1e}" for place in places)
    worst = np.abs(values - true).max() / true[0]
    runner.say(f"| {label} | {true[-1] / true[0]:.1e} | {cells} | {worst:.1e} |")


def report(runner: Runner, folder: Path, n_rows: int, width: int) -> None:
    """Measure everything once."""
    values = real_spectrum(width)
    make_table(folder, "real", n_rows, values)
    make_table(folder, "tiny", n_rows // 10, torch.logspace(0, -9, width, dtype=torch.float64))
    make_table(folder, "small", n_rows // 10, torch.logspace(0, -5, width, dtype=torch.float64))
    found = {name: runner.run(name, folder) for name in WORKERS}
    mine, least = found["ours"], found["floor"]
    for line in HEADER:
        runner.say(line)
    runner.row("ours: basis (Gram in float64, eigenvectors)", mine["basis"])
    runner.row("floor: Gram product in float32", least["gram"])
    runner.row("floor: eigenvectors", least["eigh"])
    for rank in RANKS:
        runner.row(f"ours: factors of rank {rank}", mine[f"rank {rank}"])
        runner.row(f"floor: product with {rank} directions", least[f"rank {rank}"])
    runner.row("numpy.linalg.svd, float32", found["numpy"]["svd"])
    bare, svd = {key: least["gram"][key] + least["eigh"][key] for key in ("seconds", "cpu")}, found["numpy"]["svd"]
    runner.say(
        f"\nThe basis takes {mine['basis']['seconds'] / bare['seconds']:.1f} times the seconds of the floor, and "
        f"numpy.linalg.svd {svd['seconds'] / mine['basis']['seconds']:.0f} times the seconds and "
        f"{svd['cpu'] / mine['basis']['cpu']:.0f} times the CPU seconds of the basis.\n"
    )
    runner.say(
        "Errors of singular values against float64, relative to the value itself; the last column relative to the"
    )
    runner.say("largest one. Rounding the table to float32 alone moves values by about 1e-8 of the largest.\n")
    runner.say(
        "| table | smallest / largest | of the largest | of the middle | of the smallest | worst, by the largest |\n"
        "|---|---|---|---|---|---|"
    )
    errors(runner, folder, "real spectrum, ours", "ours", "real")
    errors(runner, folder, "real spectrum, numpy float32", "numpy", "real")
    errors(runner, folder, "down to 1e-5, ours", "ours_small", "small")
    errors(runner, folder, "down to 1e-9, ours", "ours_tiny", "tiny")


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=250_002)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, help="where to write the report")
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(WORKERS[options.worker](options.folder)))
        return
    runner = Runner(__file__, options.threads)
    runner.say(f"# SVD of {options.rows:,} x {options.width}, measured\n\n{options.threads} threads, torch "
               f"{torch.__version__}, NumPy {np.__version__}, Python {platform.python_version()}; load before: "
               f"{os.getloadavg()[0]:.1f}\n")  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        report(runner, Path(name), options.rows, options.width)
    if options.out:
        options.out.write_text("\n".join(runner.lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
