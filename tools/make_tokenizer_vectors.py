#!/usr/bin/env python3
"""Writes the recorded answers that the tokenizer's tests compare with, from Hugging Face tokenizers.

    pip install tokenizers==0.23.3; python3 tools/make_tokenizer_vectors.py [COUNT] [SEED]

tests/engine/data/second/tokenizer.json   a small tokenizer with other rules than the bundled model's
tests/engine/data/tokenizer_fuzz.jsonl    ["text", ids by the bundled tokenizer, ids by the second] a line
tests/engine/data/split_cases.jsonl       ["pattern", "Behavior", invert, "text", pieces] a line
tests/engine/data/variants.jsonl          [parts to replace in the second, [["text", ids, decoded], ...]] a line
tests/engine/data/long_texts.jsonl        ["text", times, digest by the bundled, digest by the second] a line: number
                                          and hash of the ids of the repeated text

With a COUNT other than 10000 the fuzz lines go to standard output and no file is written.
"""
import json
import random
import sys
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from tokenizers.pre_tokenizers import Split

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "models/tiny-dsv32"
DATA = ROOT / "tests/engine/data"

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
SENTENCES = """The quick brown fox doesn't jump; it's asleep, they'll say.
for (int i = 0; i < 100; ++i) { total += values[i] * 2.5; }
def tokens(text): return [t for t in text.split() if t]
Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.
Voix ambiguë d'un cœur qui, au zéphyr, préfère les jattes de kiwis.
Съешь же ещё этих мягких французских булок, да выпей чаю.
Ξεσκεπάζω την ψυχοφθόρα βδελυγμία στις 12/03/1987.
いろはにほへと ちりぬるを カタカナ 漢字を読む。
天地玄黄,宇宙洪荒。日月盈昃,辰宿列张。
키스의 고유조건은 입술끼리 만나야 하고.
صِف خَلقَ خَودِ كَمِثلِ الشَمسِ إِذ بَزَغَت ١٢٣
नमस्ते दुनिया १२३, यह एक परीक्षण है।
{"name": "value", "list": [1, 22, 333], "nested": {"a": null}}
\t\tif (x)\n\t\t\treturn;\n\n\n    indented    text   \n""".split("\n")


def second_tokenizer(bundled):
    texts = bundled.decode_batch(json.loads((MODEL / "goldens/perplexity_ids.json").read_text()))
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        Split(Regex(LLAMA3), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=1950, show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator(texts + SENTENCES * 3, trainer)
    tokenizer.add_special_tokens(["<|begin|>", "<|end|>", "<|end|><|begin|>"])
    tokenizer.add_tokens([
        AddedToken("<tool>", normalized=True), AddedToken("<tool>ing", normalized=False),
        AddedToken("<left>", lstrip=True), AddedToken("<right>", rstrip=True, normalized=False),
        AddedToken("<both>", lstrip=True, rstrip=True), AddedToken("whole", single_word=True),
        AddedToken("ſafe", single_word=True, normalized=False), AddedToken("    "), AddedToken("«ж»"), AddedToken("\n\n<")])
    begin = tokenizer.token_to_id("<|begin|>")
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=True),
        processors.TemplateProcessing(single="<|begin|> $A", pair="<|begin|> $A <|begin|> $B",
                                      special_tokens=[("<|begin|>", begin)])])
    tree = json.loads(tokenizer.to_str())
    # Merges as text, and every ninth left out: then ignore_merges decides about whole words.
    merges = tree["model"]["merges"]
    lost = {left + right for left, right in merges[300::9]}
    tree["model"]["merges"] = [f"{a} {b}" for a, b in merges if not {a, b, a + b} & lost]
    path = DATA / "second/tokenizer.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree, ensure_ascii=False, indent=0) + "\n")
    return Tokenizer.from_file(str(path))


SPACES = " \t\n\r\v\f\x1c\x1f\x85\xa0\u1680\u180e\u2000\u2009\u200a\u200b\u2028\u2029\u202f\u205f\u2060\u3000\ufeff"
NEW = [0x0897, 0x1C89, 0xA7CB, 0xA7DA, 0x10D4A, 0x10D40, 0x11BC0, 0x11BF0, 0x11F02, 0x11F00, 0x11F50, 0x13460,
       0x16D70, 0x1E4F0, 0x1E4EC, 0x1CCF0, 0x1CD00, 0x1F6DC, 0x1FADF, 0x2EBF0, 0x31350, 0x2FFC, 0x31EF, 0x0CF3,
       0x10EFD, 0x1DF25, 0x1E030, 0x1E5F0, 0x116D0, 0x11DE0, 0x105C0]
NUMERALS = [0x660, 0x6F5, 0x966, 0xB2, 0xBD, 0x2160, 0x2460, 0x3007, 0x3021, 0x4E00, 0x1D7CE, 0x104A0, 0xFF15, 0x0BF0]
BLOCKS = [(0x20, 0x7E), (0x20, 0x7E), (0xA0, 0x17F), (0x250, 0x36F), (0x370, 0x52F), (0x590, 0x6FF), (0x900, 0xDFF),
          (0x1E00, 0x23FF), (0x2500, 0x2BFF), (0x3000, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xE000, 0xE0FF),
          (0xF900, 0xFFFF), (0x10000, 0x1FFFF), (0x1F300, 0x1FAFF), (0x20000, 0x33FFF), (0xE0000, 0x10FFFF)]
SNIPPETS = ["'s", "'S", "'ſ", "'ll", "'LL", "'Re", "n't", "\r\n", "\n\n", "  ", "    ", "...", "--", "://", "#!", "$", "€", "\u200d",
            "e\u0301", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea", "\u0000", "\ufffd", "12345", "0x1f",
            "3.14", "K", "İ", "ǅ", "ß", "ﬁ", "龥", "龦", "ー", "々", "whole", "ſafe", "wholesome", "un whole ", "_whole"]
ADDED = ["<|begin_of_text|>", "<|end_of_text|>", "<|begin|>", "<|end|>", "<|end|><|begin|>", "<tool>", "<tool>ing",
         "<left>", "<right>", "<both>", "«ж»", "\n\n<", "<|begin", "<too", "<", "    "]


def fuzz_text(rng, words):
    def character():
        kind = rng.random()
        if kind < 0.1:
            return rng.choice(SPACES)
        if kind < 0.13:
            return chr(rng.choice(NEW) + rng.randrange(4))
        if kind < 0.17:
            return chr(rng.choice(NUMERALS) + rng.randrange(4))
        while True:
            low, high = rng.choice(BLOCKS) if kind < 0.97 else (0, 0x10FFFF)
            point = rng.randint(low, high)
            if not 0xD800 <= point < 0xE000:
                return chr(point)

    def part():
        kind = rng.random()
        if kind < 0.35:
            return character()
        if kind < 0.45:
            return character() * rng.randint(2, 5)
        if kind < 0.55:
            low, high = rng.choice(BLOCKS)
            return "".join(chr(rng.randint(low, min(high, low + 40))) for _ in range(rng.randint(2, 6)))
        if kind < 0.75:
            word = rng.choice(words)
            return rng.choice([word, " " + word, word.upper(), word.capitalize()])
        if kind < 0.9:
            return rng.choice(SNIPPETS)
        return rng.choice([" ", "", "  "]) + rng.choice(ADDED) + rng.choice([" ", "", "\t "])

    return "".join(part() for _ in range(rng.randint(1, 7)))


def split_cases(rng, words):
    patterns = [LLAMA3, r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+", r"\s+(?!\S)|\s+", r"\w+|[^\w\s]+", r"\b", r"\B\w", r"", r"x*", r"\s",
                r"\S+", r"[^\S\n]+", r"[^\s\p{L}]+", r"\P{L}+", r"[\P{L}a-f]+", r"[^\P{L}a-f]+", r"[a-z&&[^aeiou]]+",
                r"[^a-z&&[aeiou]]+", r"[\w&&\P{Lu}]+", r"[a[bc]\d]+", r"[^a[^bc]]+", r"a{,2}", r"a{1,2}+", r"a{2}?", r"a{1,3}?b",
                r"^.", r".$", r"(?m:a.)", r"a.", r"\h+", r"\p{Han}+", r"\p{^Han}+", r"\p{Letter}+\d*", r"[[:alpha:]]+", r"[[:^punct:]]+",
                r"[[:punct:]]", r"\p{Cn}", r"\p{C}+", r"\p{Mn}+", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)", r"(?i)[a-k]+",
                r"(?<=a)b|(?<!a)c", r"(?>a+)b", r"a++|b", r"(?<name>a|b)+", r"\u0061\x62|\x{4e00}", r"\R", r"\N+", r"\p{Arabic}+",
                r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
                r"\s?\p{P}+", r"[^\]\-\\^]+", r"a(?#comment)b", r"\A.|.\z", r"(?:ab)+", r"[\s\S]", r"\d(?=(\d{3})+\b)",
                r"[\p{L}\p{M}]+", r"\p{Alphabetic}+", r"(?:(?i:a)b)+", r"[-a]+", r"[a-]+", r"{", r"a{,", r"[ࠀ-一가-퟿]+", r"\p{Sc}|\p{Sm}+"]
    behaviors = {"Removed": "removed", "Isolated": "isolated", "MergedWithPrevious": "merged_with_previous",
                 "MergedWithNext": "merged_with_next", "Contiguous": "contiguous"}
    for pattern in patterns:
        for _ in range(8):
            name, invert = rng.choice(list(behaviors)), rng.random() < 0.3
            text = "".join(rng.choice([fuzz_text(rng, words), "aab", "abc cab", "a\nb", "Ab1 ", "12345 "]) for _ in range(2))
            if text:
                pieces = Split(Regex(pattern), behaviors[name], invert).pre_tokenize_str(text)
                yield [pattern, name, invert, text, [piece for piece, _ in pieces]]


def variants(rng, words):
    def split(pattern, behavior="Isolated", invert=False):
        return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}

    def byte_level(prefix, regex):
        return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex}

    def sequence(*steps):
        return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": list(steps)}}

    def model(**options):
        vocab = {"a": 0, "b": 1, "ab": 2, "?": 3, "abab": 7, "Ġ": 5, "?a": 6}
        return {"model": {"type": "BPE", "vocab": vocab, "merges": ["a b", "ab ab", "? a"], **options},
                "added_tokens": [], "post_processor": None}

    digits = {"type": "Digits", "individual_digits": True}
    return [
        {"pre_tokenizer": byte_level(True, True), "post_processor": None},
        {"pre_tokenizer": byte_level(False, True), "post_processor": byte_level(True, True)},
        sequence(split({"Regex": "[\r\n]"}), split({"Regex": "\\s?\\p{L}+"}), split({"Regex": "\\s?\\p{P}+"}),
                 split({"Regex": "[一-龥ࠀ-一가-퟿]+"}), digits, byte_level(False, False)),
        sequence({"type": "Digits", "individual_digits": False}, split({"String": " "}, "MergedWithNext"), byte_level(False, False)),
        sequence(split({"String": "a"}, "Removed"), byte_level(True, False)),
        sequence(split({"Regex": "[^\\s]+"}, "Removed", True), byte_level(False, True)),
        sequence(split({"String": "."}, "Contiguous"), sequence(digits)["pre_tokenizer"], byte_level(True, True)),
        model(unk_token="?"), model(unk_token="?", fuse_unk=True), model(unk_token="?", fuse_unk=True, ignore_merges=True),
    ]


def variant_line(parts, base, rng, words):
    tokenizer = Tokenizer.from_str(json.dumps(base | parts))
    texts = [fuzz_text(rng, words) for _ in range(30)] + ["", "abab", "abacabb ab", "aé ba", "éé", " ab 12345 a.b..c"]
    rows = []
    for text in texts:
        ids = tokenizer.encode(text).ids
        rows.append([text, ids, tokenizer.decode(ids, skip_special_tokens=False)])
    return [parts, rows]


def digest(ids):
    value = 0xCBF29CE484222325  # FNV-1a over 32-bit words
    for one in ids:
        value = (value ^ one) * 0x100000001B3 % 2**64
    return [len(ids), value]


LONG = [(" ", 1 << 20), ("a", 1 << 20), ("\n", 1 << 20), ("7", 1 << 20), ("é", 1 << 19), ("龥", 350000), ("\u3000", 350000),
        (" a", 1 << 19), ("-", 1 << 20), ("\n ", 1 << 19), ("<", 1 << 20), ("<|begin", 150000), ("'S", 1 << 19), ("e\u0301", 350000)]


def main():
    count, seed = (int(a) for a in (sys.argv[1:] + ["10000", "1"][len(sys.argv) - 1:]))
    bundled = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    second = second_tokenizer(bundled) if count == 10000 else Tokenizer.from_file(str(DATA / "second/tokenizer.json"))
    rng = random.Random(seed)
    words = [w for s in SENTENCES for w in s.split()]

    def line(text):
        return json.dumps([text, bundled.encode(text, add_special_tokens=False).ids,
                           second.encode(text, add_special_tokens=False).ids], ensure_ascii=False, separators=(",", ":"))

    lines = (line(fuzz_text(rng, words)) for _ in range(count))
    if count != 10000:
        for text in lines:
            print(text)
        return
    (DATA / "tokenizer_fuzz.jsonl").write_text("\n".join(lines) + "\n")
    cases = (json.dumps(case, ensure_ascii=False, separators=(",", ":")) for case in split_cases(rng, words))
    (DATA / "split_cases.jsonl").write_text("\n".join(cases) + "\n")
    base = json.loads((DATA / "second/tokenizer.json").read_text())
    rows = [json.dumps(variant_line(parts, base, rng, words), ensure_ascii=False) for parts in variants(rng, words)]
    (DATA / "variants.jsonl").write_text("\n".join(rows) + "\n")
    rows = [json.dumps([text, times] + [digest(t.encode(text * times, add_special_tokens=False).ids) for t in (bundled, second)])
            for text, times in LONG]
    (DATA / "long_texts.jsonl").write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
