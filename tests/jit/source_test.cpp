// SHA-256, the headers that a source reaches, and the keys.
#include <gtest/gtest.h>

#include <array>
#include <set>

#include "core/sha256.hpp"
#include "jit/jit.hpp"

namespace fathom::jit {
namespace {

std::string hash_of(std::string_view text) { return sha256(std::as_bytes(std::span(text))); }

TEST(Sha256, KnownAnswers) {
  // The examples of FIPS 180-4, and a million times "a".
  EXPECT_EQ(hash_of(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(hash_of("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(hash_of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(hash_of(std::string(1000000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, PiecesOfEverySizeGiveTheSame) {
  std::string text;
  for (int i = 0; i < 300; ++i) text += static_cast<char>(i * 7);
  for (std::size_t length = 0; length <= text.size(); length += length < 140 ? 1 : 13) {
    for (const std::size_t piece : {1, 3, 63, 64, 65}) {
      Sha256 hash;
      for (std::size_t at = 0; at < length; at += piece) {
        hash.update(std::string_view(text).substr(at, std::min(piece, length - at)));
      }
      ASSERT_EQ(hash.hex(), hash_of(text.substr(0, length))) << length << " in pieces of " << piece;
    }
  }
}

constexpr std::array<Header, 5> kHeaders{{
    {"a.cuh", "#pragma once\n#include \"deep/b.cuh\"\n"},
    {"deep/b.cuh", "  #  include\t\"c.cuh\"  // comment\nint b;\n"},
    {"c.cuh", "#include \"a.cuh\"\nint c;"},
    {"unused.cuh", "int unused;\n"},
    {"x", "int x;\n"},
}};

TEST(Source, ReachesHeadersThroughHeaders) {
  const auto reached = reached_headers("#include \"a.cuh\"\n#include <x>\n// \"x\"\nint main;", kHeaders);
  ASSERT_EQ(reached.size(), 3u);
  EXPECT_EQ(reached[0].name, "a.cuh");
  EXPECT_EQ(reached[1].name, "c.cuh");
  EXPECT_EQ(reached[2].name, "deep/b.cuh");
  EXPECT_TRUE(reached_headers("#include \"not_there.cuh\"", kHeaders).empty());
}

TEST(Source, KeyIsContent) {
  const Source source{"k", "#include \"a.cuh\"\n"};
  const std::string key = cache_key(source, "sm_90a", "13.0", kHeaders);
  EXPECT_EQ(key.size(), 64u);
  EXPECT_EQ(key, cache_key({"other_name", source.text}, "sm_90a", "13.0", kHeaders));
  auto headers = kHeaders;
  headers[3].text = "int changed;";
  EXPECT_EQ(key, cache_key(source, "sm_90a", "13.0", headers)) << "a header that is not reached has no part";
  std::set<std::string> others{key};
  headers[2].text = "#include \"a.cuh\"\nint d;";
  EXPECT_TRUE(others.insert(cache_key(source, "sm_90a", "13.0", headers)).second);
  EXPECT_TRUE(others.insert(cache_key(source, "sm_100a", "13.0", kHeaders)).second);
  EXPECT_TRUE(others.insert(cache_key(source, "sm_90a", "12.9", kHeaders)).second);
  EXPECT_TRUE(others.insert(cache_key({"k", source.text + " "}, "sm_90a", "13.0", kHeaders)).second);
}

// A key that changes without need throws away everybody's caches and packs; one that does not change when
// options do gives old code. Change kCacheFormat with the way keys are made, and this value with it.
TEST(Source, KeyOfThisFormat) {
  EXPECT_EQ(cache_key({"k", "int x;"}, "sm_90a", "13.0", {}),
            "5f3d5d0e381527a4f28db6b5bec17ce8ae93152ef7f9feb8847e43c4706c48d1");
}

TEST(Source, ArchitectureNames) {
  EXPECT_EQ(arch_name(8, 0), "sm_80");
  EXPECT_EQ(arch_name(8, 9), "sm_89");
  EXPECT_EQ(arch_name(9, 0), "sm_90a");
  EXPECT_EQ(arch_name(10, 0), "sm_100a");
  EXPECT_EQ(arch_name(12, 0), "sm_120");
}

TEST(Source, EmbeddedHeadersAreSortedAndIncludeOneAnotherByName) {
  const auto headers = embedded_headers();
  for (std::size_t i = 1; i < headers.size(); ++i) EXPECT_LT(headers[i - 1].name, headers[i].name);
}

}  // namespace
}  // namespace fathom::jit
