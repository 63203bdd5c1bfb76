"""Whether two source trees compress alike: every file that either writes must be equal, byte for byte.

    python tests/same_bytes.py OLD NEW [--quick | --all] [--models llama,gpt2] [--recipes default,entropy]

OLD and NEW are checkouts; both run on this interpreter and its native kernels, unless a tree has its own in
`src/mediant/kernels`. Tiny models are compressed by every recipe, with entropy coding, by recipes for what the named
ones leave out, and pruned. NEW does it again with two threads and from the plan that OLD saved, and both compress by
that plan with three steps of tuning. Three models go through all of it and the others through the cases that depend on
the architecture; with `--all`, every model goes through all of it; with `--quick`, one model through a case of each
form.
`--rename old=new` names a word in JSON texts for which NEW has another. For each case a line says how it ended, with
the first difference. The exit code is 1 where anything differs.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.abc
import importlib.machinery
import io
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests import tiny_models
from tests.first_difference import first_difference, in_new_words

# Sizes in the order in which they are asked for, until one is met; the first two are refused, alike in both trees.
SIZES = ("1", "1GB", "40%", "55%", "30%")
# Models that go through everything: grouped attention, experts with biases, matrices stored in_out and tied.
THOROUGH = ("llama", "gpt_oss", "gpt2")
QUICK = "llama"
# Cases for the other models, and for the quick run.
BRIEF = ("default", "entropy", "nearest", "prune-2:4")
FORMS = ("default", "rtn", "owq", "awq", "nested", "cvxq", "sparse-quantize", "lqer", "svd-llm", "entropy", "prune-row")
QUIET = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
         "PYTHONDONTWRITEBYTECODE": "1"}  # fmt: skip
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog", "and", "runs", "away", "from", "angry", "bees"]
QUANTIZE = {"quantize": {"recipe": "default", "rotate": False, "storage": "rows"}}


def _sparse(score: str, **pattern: Any) -> list[Mapping[str, Any]]:
    return [{"sparsify": {"pattern": pattern, "score": {"name": score}}}, QUANTIZE]


# Stages of recipes for what no recipe of the package does.
OWN_RECIPES: Mapping[str, Any] = {
    "trained": [
        {"quantize": {"recipe": "default"}},
        {"train_codes": {"block_steps": 2, "code_steps": 2}},
        {"tune": {"steps": 3}},
    ],
    "sparse-row": _sparse("sparsegpt", name="unstructured", sparsity=0.5, scope="row"),
    "sparse-blocks": _sparse("wanda", name="blocks", sparsity=0.5, height=4, width=8),
}
PRUNED = {
    "prune-2:4": ("--pattern", "2:4"),
    "prune-row": ("--pattern", "row", "--sparsity", "40%", "--score", "magnitude"),
    "prune-matrix": ("--pattern", "matrix", "--sparsity", "80%"),
    "prune-parts": ("--neurons", "25%", "--layers", "1"),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One command on one model; `sizes` are tried until one is met, or the saved plan of case `plan` is followed.

    `name` is also the folder of its outputs. `steps` of tuning, if any, replace those of the plan.
    """

    name: str
    command: tuple[str, ...]
    sizes: tuple[str, ...] = ("",)
    threads: int = 1
    plan: str = ""
    steps: int = 0


@dataclasses.dataclass(frozen=True)
class Job:
    """Cases of one model for one tree, which run in a process of their own. Plans are those that the old tree saved."""

    tree: str
    native: str
    model: str
    text: str
    folder: str
    plans: str
    renamed: Mapping[str, str]
    cases: Sequence[Case]


class TreeFinder(importlib.abc.MetaPathFinder):
    """Finds `mediant` in one tree alone, whatever is installed, and `native` where that tree has no such module."""

    def __init__(self, tree: Path, native: str) -> None:
        self.source, self.native = tree / "src", native

    def find_spec(self, fullname: str, path: object, target: object = None) -> Any:
        if fullname.partition(".")[0] != "mediant":
            return None
        *packages, _ = fullname.split(".")
        found = importlib.machinery.PathFinder.find_spec(fullname, [str(self.source.joinpath(*packages))])
        if found is None and fullname == "mediant.kernels._native":
            return importlib.machinery.PathFinder.find_spec(fullname, [str(Path(self.native).parent)])
        return found


def work(job: Job) -> None:
    """Runs the cases with the commands of the job's tree, in this process."""
    finder = TreeFinder(Path(job.tree), job.native)
    sys.meta_path.insert(0, finder)
    import mediant
    from mediant import kernels

    assert Path(mediant.__file__).is_relative_to(finder.source), mediant.__file__
    assert kernels.native is not None, "the native kernels are not built"
    for case in job.cases:
        if case.plan and not Path(job.plans, case.plan, "plan.json").exists():
            continue
        place = Path(job.folder, case.name)
        place.mkdir(parents=True)
        os.environ["MEDIANT_THREADS"] = str(case.threads)
        # Cases share what calibration measures, but not those with more threads.
        os.environ["MEDIANT_CACHE"] = str(Path(job.folder, f"cache-{case.threads}"))
        with contextlib.chdir(place):
            run_case(case, job)


def run_case(case: Case, job: Job) -> None:
    """Runs one case in the working folder, and looks at what it has written."""
    for size in case.sizes:
        options = ["--size", size] if size else []
        if case.plan:
            options = ["--plan", given_plan(case, job)]
        text = [] if case.command[0] == "export" else ["--calibration", job.text]
        if run([*case.command, job.model, "--out", "out", *text, *options], f"{case.command[0]}{size}.txt") == 0:
            break
    if Path("out/mediant.json").exists():
        run(["inspect", "out", "--json", "inspect.json"], "inspect.txt")


def given_plan(case: Case, job: Job) -> str:
    """Writes the saved plan of another case with this one's steps of tuning, and returns the file."""
    data = json.loads(Path(job.plans, case.plan, "plan.json").read_text(encoding="utf-8"))
    data["tune_steps"] = case.steps or data["tune_steps"]
    file = Path(job.folder, f"{case.name}.json")
    file.write_text(json.dumps(in_new_words(data, job.renamed)), encoding="utf-8")
    return str(file)


def run(arguments: Sequence[str], name: str) -> int:
    """Runs one command; a file of that name says its exit code, what it printed and, if it failed, why."""
    from mediant.cli import main

    sys.argv = ["mediant", *arguments]
    printed, said = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        except Exception as problem:  # a fault of this tree: the other has to have it too
            code = -1
            print(f"{type(problem).__name__}: {problem}", file=said)
    why = said.getvalue().strip().splitlines()[-1:] if code else []
    Path(name).write_text("\n".join([str(code), printed.getvalue(), *why]), encoding="utf-8")
    return code


def cases_of(model: str, recipes: Sequence[str], own: Mapping[str, Path]) -> Iterator[Case]:
    """All cases of a model: recipes by name, recipe files by their name, entropy coding, a loss, pruning."""
    choices: dict[str, tuple[str, ...]] = {name: ("--recipe", name) for name in recipes}
    choices |= {name: ("--recipe", str(file)) for name, file in own.items()}
    choices |= {"entropy": ("--coding", "entropy")}
    for name, options in choices.items():
        yield Case(name, ("compress", *options, "--save-plan", "plan.json", "--json", "figures.json"), SIZES)
    yield from (Case(name, ("prune", *options)) for name, options in PRUNED.items())
    if model == QUICK:
        yield Case("max-kl", ("compress", "--max-kl", "0.02", "--save-plan", "plan.json", "--json", "figures.json"))


def in_two_threads(case: Case) -> Case:
    """The case with two threads."""
    return dataclasses.replace(case, name=f"{case.name}, 2 threads", threads=2)


def by_plan(case: Case, name: str, steps: int = 0) -> Case:
    """The case by the plan that was saved for it."""
    return Case(f"{case.name}, {name}", ("compress",), threads=2, plan=case.name, steps=steps)


class Comparison:
    """Both trees on all models; `folder` has what is made."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.renamed = dict(words.split("=", 1) for words in options.rename)
        self.text = folder / "text.txt"
        folder.mkdir(parents=True, exist_ok=True)
        generator = random.Random(0)
        self.text.write_text(" ".join(generator.choice(WORDS) for _ in range(400)), encoding="utf-8")
        self.native = native_module()

    def cases(self, model: str) -> list[Case]:
        """The cases of a model that were asked for."""
        names = [file.stem for file in sorted((self.options.old / "src/mediant/recipes").glob("*.yaml"))]
        own = {}
        for name, stages in OWN_RECIPES.items():
            own[name] = self.folder / f"{name}.yaml"
            own[name].write_text(json.dumps({"description": name, "stages": stages}), encoding="utf-8")
        wanted = self.options.recipes or self._usual(model)
        return [case for case in cases_of(model, names, own) if not wanted or case.name in wanted]

    def _usual(self, model: str) -> Sequence[str]:
        """Names of the cases where none are named; none for all."""
        if self.options.quick:
            return FORMS
        return () if self.options.all or model in THOROUGH else BRIEF

    def of_model(self, model: str) -> list[str]:
        """Compares all cases of one model, prints how each ended, and returns the names of those that differ."""
        source = self.folder / "models" / model
        tiny_models.save(model, source)
        cases = self.cases(model)
        thorough = not self.options.quick and (self.options.all or model in THOROUGH)
        repeated = [case for case in cases if case.sizes == SIZES and (thorough or case.name in BRIEF[:2])]
        threaded = [in_two_threads(case) for case in repeated]
        planned = [by_plan(case, "saved plan") for case in repeated]
        tuned = [] if self.options.quick else [by_plan(case, "tuned", 3) for case in repeated]
        self._run(self.options.old, source, "old", [*cases, *tuned])
        if self.renamed:  # other words have other lengths, so that sizes leave room for other bit widths
            cases = threaded = []
        self._run(self.options.new, source, "new", [*cases, *threaded, *planned, *tuned])
        pairs = [(case.name, case.name, "") for case in cases]
        pairs += [(case.name, again.name, "") for case, again in zip(repeated, threaded, strict=False)]
        pairs += [(case.plan, case.name, "out") for case in planned]
        pairs += [(case.name, case.name, "out") for case in tuned]
        return [new for old, new, within in pairs if not self._equal(model, old, new, within)]

    def _run(self, tree: Path, model: Path, which: str, cases: Sequence[Case]) -> None:
        place = self.folder / which / model.name
        place.mkdir(parents=True)
        plans = self.folder / "old" / model.name
        job = Job(*map(str, (tree, self.native, model, self.text, place, plans)), self.renamed, cases)
        file = place / "job.json"
        file.write_text(json.dumps(dataclasses.asdict(job)), encoding="utf-8")
        subprocess.run([sys.executable, __file__, "--work", file], check=True, env={**os.environ, **QUIET})

    def _equal(self, model: str, old: str, new: str, within: str) -> bool:
        folders = [self.folder / which / model / name / within for which, name in (("old", old), ("new", new))]
        if not any(folder.exists() for folder in folders):
            return True
        problem = first_difference(*folders, self.renamed)
        refused = "" if any(folder.glob("**/out") or within for folder in folders) else " (refused)"
        print(f"{model}, {new}: {problem or f'equal{refused}'}", flush=True)
        return problem is None


def native_module() -> str:
    """The file of the native kernels that this interpreter finds by itself."""
    code = "import mediant.kernels._native as native; print(native.__file__)"
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=lambda tree: Path(tree).resolve())
    parser.add_argument("new", type=lambda tree: Path(tree).resolve())
    parser.add_argument("--quick", action="store_true", help="one model, a case of each form")
    parser.add_argument("--all", action="store_true", help="every case of every model")
    parser.add_argument("--models", type=lambda names: names.split(","), help="instead of all tiny models")
    parser.add_argument("--recipes", type=lambda names: names.split(","), help="instead of all cases")
    parser.add_argument("--rename", action="append", default=[], metavar="OLD=NEW", help="a word in JSON texts")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="models at a time")
    parser.add_argument("--keep", type=Path, help="folder for what both trees write, which then stays")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Compares two trees; 1 where anything differs."""
    options = parsed(arguments)
    models = options.models or ((QUICK,) if options.quick else tuple(tiny_models.TINY))
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(options.jobs) as pool:
        comparison = Comparison(options, (options.keep or Path(temporary)).resolve())
        different = sum(map(len, pool.map(comparison.of_model, models)))
    print(f"{different} cases differ." if different else "All equal.")
    return int(different > 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        data = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
        work(Job(**{**data, "cases": [Case(**case) for case in data["cases"]]}))
    else:
        sys.exit(main(sys.argv[1:]))
