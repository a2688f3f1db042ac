#!/usr/bin/env python3
"""Writes src/engine/tokenizer/unicode_additions.inc: what the Unicode version of Hugging Face tokenizers has
and that of PCRE2 10.42 (Unicode 14) lacks, for every set of characters the tokenizer knows by name.

    pip install tokenizers==0.23.3; python3 tools/make_unicode_additions.py > src/engine/tokenizer/unicode_additions.inc

Both engines are asked about every code point, so the table holds what they do, not what a standard says.
Needs libpcre2-8 10.42 itself; a newer one would give a shorter table, which is wrong for the older.
"""
import ctypes
import sys

from tokenizers import Regex
from tokenizers.pre_tokenizers import Split

GROUPS = "L M N P S Z".split()
CATEGORIES = ("Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co").split()
BINARY = "Alphabetic Uppercase Lowercase".split()
SCRIPTS = """Adlam Ahom Anatolian_Hieroglyphs Arabic Armenian Avestan Balinese Bamum Bassa_Vah Batak Bengali
Bhaiksuki Bopomofo Brahmi Braille Buginese Buhid Canadian_Aboriginal Carian Caucasian_Albanian Chakma Cham Cherokee
Chorasmian Common Coptic Cuneiform Cypriot Cypro_Minoan Cyrillic Deseret Devanagari Dives_Akuru Dogra Duployan
Egyptian_Hieroglyphs Elbasan Elymaic Ethiopic Georgian Glagolitic Gothic Grantha Greek Gujarati Gunjala_Gondi Gurmukhi
Han Hangul Hanifi_Rohingya Hanunoo Hatran Hebrew Hiragana Imperial_Aramaic Inherited Inscriptional_Pahlavi
Inscriptional_Parthian Javanese Kaithi Kannada Katakana Kayah_Li Kharoshthi Khitan_Small_Script Khmer Khojki Khudawadi
Lao Latin Lepcha Limbu Linear_A Linear_B Lisu Lycian Lydian Mahajani Makasar Malayalam Mandaic Manichaean Marchen
Masaram_Gondi Medefaidrin Meetei_Mayek Mende_Kikakui Meroitic_Cursive Meroitic_Hieroglyphs Miao Modi Mongolian Mro
Multani Myanmar Nabataean Nandinagari New_Tai_Lue Newa Nko Nushu Nyiakeng_Puachue_Hmong Ogham Ol_Chiki Old_Hungarian
Old_Italic Old_North_Arabian Old_Permic Old_Persian Old_Sogdian Old_South_Arabian Old_Turkic Old_Uyghur Oriya Osage
Osmanya Pahawh_Hmong Palmyrene Pau_Cin_Hau Phags_Pa Phoenician Psalter_Pahlavi Rejang Runic Samaritan Saurashtra Sharada
Shavian Siddham SignWriting Sinhala Sogdian Sora_Sompeng Soyombo Sundanese Syloti_Nagri Syriac Tagalog Tagbanwa Tai_Le
Tai_Tham Tai_Viet Takri Tamil Tangsa Tangut Telugu Thaana Thai Tibetan Tifinagh Tirhuta Toto Ugaritic Vai Vithkuqi
Wancho Warang_Citi Yezidi Yi Zanabazar_Square""".split()

POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
TEXT = "".join(map(chr, POINTS))
BYTES = TEXT.encode()


def of_tokenizers(expression):
    found = set()
    for _, (begin, end) in Split(Regex(f"(?:{expression})+"), "removed", invert=True).pre_tokenize_str(TEXT):
        found.update(POINTS[begin:end])
    return found


def of_pcre2(expression):
    found, at = set(), 0
    number, offset = ctypes.c_int(), ctypes.c_size_t()
    pattern = f"(?:{expression})+".encode()
    utf_and_ucp = 0x000A0000
    code = pcre2.pcre2_compile_8(pattern, len(pattern), utf_and_ucp, ctypes.byref(number), ctypes.byref(offset), None)
    if not code:
        sys.exit(f"PCRE2 refuses {expression}")
    data = ctypes.c_void_p(pcre2.pcre2_match_data_create_8(1, None))
    pcre2.pcre2_get_ovector_pointer_8.restype = ctypes.POINTER(ctypes.c_size_t)
    place = pcre2.pcre2_get_ovector_pointer_8(data)
    no_utf_check = 0x40000000
    while pcre2.pcre2_match_8(ctypes.c_void_p(code), BYTES, len(BYTES), ctypes.c_size_t(at), no_utf_check, data, None) > 0:
        at = place[1]
        found.update(map(ord, BYTES[place[0]:at].decode()))
    return found


def ranges(points):
    runs = []
    for point in sorted(points):
        if runs and runs[-1][1] == point - 1:
            runs[-1][1] = point
        else:
            runs.append([point, point])
    # As it stands in a C++ string: two backslashes a code point.
    return "".join(f"\\\\x{{{a:x}}}" if a == b else f"\\\\x{{{a:x}}}-\\\\x{{{b:x}}}" for a, b in runs)


def row(name, spelling):
    theirs, ours = of_tokenizers(f"\\p{{{name}}}"), of_pcre2(f"\\p{{{spelling}}}")
    key = name.lower().replace("_", "")
    # A set that lost characters is spelled out.
    text, width = ranges(theirs) if ours - theirs else f"\\\\p{{{spelling}}}" + ranges(theirs - ours), 110
    lines = []
    while text:
        cut = len(text) if len(text) <= width else text.rindex("\\\\x", 0, width)
        lines.append(f'"{text[:cut]}"')
        text = text[cut:]
    print(f'{{"{key}",\n ' + "\n ".join(lines) + "},")


pcre2 = ctypes.CDLL("libpcre2-8.so.0")
pcre2.pcre2_compile_8.restype = ctypes.c_void_p
pcre2.pcre2_match_data_create_8.restype = ctypes.c_void_p
version = ctypes.create_string_buffer(64)
pcre2.pcre2_config_8(10, version)
if version.value != b"14.0.0":
    sys.exit(f"needs a PCRE2 with Unicode 14.0.0, found {version.value.decode()}")
print("// Written by tools/make_unicode_additions.py: for each set its name in PCRE2 and what Unicode 15 and 16 added.")
print("// clang-format off")
for name in GROUPS + CATEGORIES + BINARY:
    row(name, name)
for name in SCRIPTS:
    row(name, "sc:" + name)
