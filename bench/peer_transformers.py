#!/usr/bin/env python3
"""Times Hugging Face transformers (float32, eager, on the CPU) on the bundled model, beside `fathom generate`.

    python3 bench/peer_transformers.py --fathom build/release/apps/cli/fathom --model models/tiny-dsv32 [--json OUT]

Needs torch >= 2, transformers with DeepseekV32ForCausalLM, and safetensors. For every prompt of the goldens both run in turn
(A B A B) on the same threads; figures are medians of tokens per second. Fathom runs in its default precision and in fp32,
without drafts and with its default number of drafts. The generated ids of fp32 must agree, or the comparison is void.
"""
import argparse, json, pathlib, statistics, subprocess, tempfile, time

import torch
from safetensors.torch import load_file, save_file


def dequantised(model_dir, out_dir):
    """Writes the FP8 checkpoint once more in float32, without the MTP layer (transformers has none)."""
    config = json.loads((model_dir / "config.json").read_text())
    config.pop("quantization_config", None)
    config["num_nextn_predict_layers"] = 0
    config["torch_dtype"] = "float32"
    tensors = {}
    for shard in sorted(model_dir.glob("*.safetensors")):
        tensors.update(load_file(shard))
    mtp = f"model.layers.{config['num_hidden_layers']}."
    wide = {}
    for name, value in tensors.items():
        if name.startswith(mtp) or name.endswith("_scale_inv"):
            continue
        scale = tensors.get(name + "_scale_inv")
        value = value.to(torch.float32)
        if scale is not None:
            rows, columns = value.shape
            scale = scale.repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)[:, :columns]
            value = value * scale
        wide[name] = value.contiguous()
    save_file(wide, out_dir / "model.safetensors", metadata={"format": "pt"})
    (out_dir / "config.json").write_text(json.dumps(config))


def time_transformers(model, ids, new_tokens):
    with torch.inference_mode():
        start = time.perf_counter()
        out = model(input_ids=torch.tensor([ids]), use_cache=True)
        token = int(out.logits[0, -1].argmax())
        prefill = time.perf_counter() - start
        produced = [token]
        start = time.perf_counter()
        for _ in range(new_tokens - 1):
            out = model(input_ids=torch.tensor([[token]]), past_key_values=out.past_key_values, use_cache=True)
            token = int(out.logits[0, -1].argmax())
            produced.append(token)
        decode = time.perf_counter() - start
    return len(ids) / prefill, (new_tokens - 1) / decode, produced


def time_fathom(binary, model_dir, ids, new_tokens, threads, options):
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(ids, file)
        file.flush()
        command = [binary, "generate", "--model", str(model_dir), "--ids", file.name, "--max-tokens", str(new_tokens),
                   "--threads", str(threads), "--ignore-eos", "--json", *options]
        report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    timings = report["timings"]
    return timings["prompt_tokens_per_second"], timings["generated_tokens_per_second"], report["output_ids"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fathom", required=True)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    from transformers import AutoModelForCausalLM
    with tempfile.TemporaryDirectory() as folder:
        dequantised(arguments.model, pathlib.Path(folder))
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()

    contenders = {
        "fathom fp8": [],
        "fathom fp8, no drafts": ["--draft-tokens", "0"],
        "fathom fp32, no drafts": ["--precision", "fp32", "--draft-tokens", "0"],
    }
    rows = []
    for prompt in json.loads((arguments.model / "goldens/prompts.json").read_text()):
        ids = prompt["input_ids"]
        samples = {"transformers fp32": [], **{name: [] for name in contenders}}
        outputs = {}
        for _ in range(arguments.repeats):
            *figures, outputs["transformers fp32"] = time_transformers(model, ids, arguments.tokens)
            samples["transformers fp32"].append(figures)
            for name, options in contenders.items():
                *figures, outputs[name] = time_fathom(arguments.fathom, arguments.model, ids, arguments.tokens,
                                                      arguments.threads, options)
                samples[name].append(figures)
        if outputs["transformers fp32"] != outputs["fathom fp32, no drafts"]:
            raise SystemExit(f"{prompt['name']}: fathom fp32 and transformers generate different tokens")
        median = {name: [statistics.median(column) for column in zip(*values)] for name, values in samples.items()}
        peer = median["transformers fp32"]
        for name, (prefill, decode) in median.items():
            rows.append({"prompt": prompt["name"], "prompt_tokens": len(ids), "what": name,
                         "prefill_tokens_per_second": round(prefill, 1), "decode_tokens_per_second": round(decode, 1),
                         "prefill_ratio": round(prefill / peer[0], 2), "decode_ratio": round(decode / peer[1], 2)})
            print("{prompt:8} {prompt_tokens:5} {what:24} prefill {prefill_tokens_per_second:9.1f} /s ({prefill_ratio:6.2f} x)"
                  "  decode {decode_tokens_per_second:8.1f} /s ({decode_ratio:6.2f} x)".format(**rows[-1]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"threads": arguments.threads, "torch": torch.__version__, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
