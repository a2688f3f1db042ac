#!/usr/bin/env python3
"""Times the bundled model on the CPU with every number of drafts, and prints what docs/performance.md shows.

    python3 bench/model_cpu.py --fathom build/release/apps/cli/fathom --model models/tiny-dsv32 [--json OUT]

Runs of different draft counts take turns (A B A B); figures are medians over the repeats. Needs Python's standard library only.
"""
import argparse, json, pathlib, statistics, subprocess, tempfile


def run(arguments, ids_file, drafts):
    command = [arguments.fathom, "generate", "--model", str(arguments.model), "--ids", ids_file,
               "--max-tokens", str(arguments.tokens), "--draft-tokens", str(drafts), "--threads", str(arguments.threads),
               "--precision", arguments.precision, "--ignore-eos", "--json"] + ["--fixed-drafts"] * arguments.fixed_drafts
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fathom", required=True)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--precision", default="fp8")
    parser.add_argument("--drafts", type=int, nargs="+", default=[0, 1, 2, 3, 5, 7])
    parser.add_argument("--fixed-drafts", action="store_true", help="that many drafts in every step; else at most that many")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()

    rows = []
    for prompt in json.loads((arguments.model / "goldens/prompts.json").read_text()):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(prompt["input_ids"], file)
            file.flush()
            reports = {drafts: [] for drafts in arguments.drafts}
            for _ in range(arguments.repeats):
                for drafts in arguments.drafts:
                    reports[drafts].append(run(arguments, file.name, drafts))
        if len({tuple(report["output_ids"]) for all_of in reports.values() for report in all_of}) != 1:
            raise SystemExit(f"{prompt['name']}: the output depends on the number of drafts")
        base = None
        for drafts, all_of in reports.items():
            rate = statistics.median(report["timings"]["generated_tokens_per_second"] for report in all_of)
            prefill = statistics.median(report["timings"]["prompt_tokens_per_second"] for report in all_of)
            base = base or rate
            proposed, accepted = all_of[0]["draft"]["proposed"], all_of[0]["draft"]["accepted"]
            rows.append({"prompt": prompt["name"], "prompt_tokens": len(prompt["input_ids"]), "drafts": drafts,
                         "acceptance": round(accepted / proposed, 3) if proposed else None,
                         "prompt_tokens_per_second": round(prefill, 1), "generated_tokens_per_second": round(rate, 1),
                         "against_first": round(rate / base, 3),
                         "weight_megabytes_per_token": round(
                             all_of[0]["timings"]["weight_bytes_per_token"] * 1e-6, 2)})
            print("{prompt:8} prompt {prompt_tokens:5}  drafts {drafts}  accepted {acceptance!s:5}  prefill "
                  "{prompt_tokens_per_second:8.1f} /s  decode {generated_tokens_per_second:7.1f} /s  x {against_first:5}  {weight_megabytes_per_token:5.2f} MB a token"
                  .format(**rows[-1]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"precision": arguments.precision, "threads": arguments.threads,
                                              "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
