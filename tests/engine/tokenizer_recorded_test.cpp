// The tokenizer against recorded answers of Hugging Face tokenizers.
#include <algorithm>
#include <chrono>

#include "engine/tokenizer/pre_tokenizer.hpp"
#include "engine/tokenizer_data.hpp"

namespace fathom {
namespace {

TEST(Tokenizer, AgreesWithTheGoldens) {
  const auto cases = nlohmann::json::parse(slurp(kModel / "goldens/tokenizer_cases.json"));
  ASSERT_GT(cases.size(), 10u);
  for (const auto& item : cases) {
    const auto text = item["text"].get<std::string>();
    const auto ids = item["ids"].get<std::vector<std::int32_t>>();
    const auto plain = item["ids_without_bos"].get<std::vector<std::int32_t>>();
    EXPECT_EQ(bundled().encode(text, true), ids) << text;
    EXPECT_EQ(bundled().encode(text, false), plain) << text;
    EXPECT_EQ(bundled().decode(plain, false), item["decoded"].get<std::string>());
    EXPECT_EQ(bundled().decode(plain, false), text);
  }
}

// ["text", ids by the bundled tokenizer, ids by the second]: see tools/make_tokenizer_vectors.py.
TEST(Tokenizer, AgreesWithRecordedFuzz) {
  const auto all = lines("tokenizer_fuzz.jsonl");
  ASSERT_EQ(all.size(), 10000u);
  int wrong = 0;
  for (const auto& line : all) {
    const auto text = line[0].get<std::string>();
    for (const auto& [tokenizer, ids] : {std::pair(&bundled(), &line[1]), {&second(), &line[2]}}) {
      const auto got = tokenizer->encode(text, false);
      if (got == ids->get<std::vector<std::int32_t>>() || ++wrong > 20) continue;
      ADD_FAILURE() << line[0] << " gives " << nlohmann::json(got) << " instead of " << *ids;
    }
    EXPECT_EQ(bundled().decode(bundled().encode(text, false), false), text);
  }
  EXPECT_EQ(wrong, 0);
}

// ["pattern", "Behavior", invert, "text", pieces]
TEST(Tokenizer, SplitsLikeOniguruma) {
  constexpr std::pair<std::string_view, text::SplitBehavior> kBehaviors[] = {
      {"Removed", text::SplitBehavior::removed},
      {"Isolated", text::SplitBehavior::isolated},
      {"MergedWithPrevious", text::SplitBehavior::merged_with_previous},
      {"MergedWithNext", text::SplitBehavior::merged_with_next},
      {"Contiguous", text::SplitBehavior::contiguous}};
  const auto all = lines("split_cases.jsonl");
  ASSERT_GT(all.size(), 400u);
  for (const auto& line : all) {
    const auto* behavior = std::find_if(std::begin(kBehaviors), std::end(kBehaviors), [&](const auto& known) {
      return known.first == line[1].get<std::string>();
    });
    std::vector<text::SplitRule> rules;
    try {
      rules.push_back({.pattern = text::Regex::compile(line[0].get<std::string>()),
                       .behavior = behavior->second,
                       .invert = line[2].get<bool>()});
    } catch (const text::PatternError& error) {
      ADD_FAILURE() << line[0] << ": " << error.what();
      continue;
    }
    text::SplitScratch scratch;
    std::vector<std::string> pieces;
    text::split_text(rules, line[3].get<std::string>(), scratch,
                     [&](std::string_view piece) { pieces.emplace_back(piece); });
    EXPECT_EQ(nlohmann::json(pieces), line[4]) << line;
  }
}

// [parts to replace in the second tokenizer.json, [["text", ids, decoded], ...]]
TEST(Tokenizer, AgreesOnOtherRules) {
  const auto base = nlohmann::json::parse(slurp(kData / "second/tokenizer.json"));
  for (const auto& line : lines("variants.jsonl")) {
    auto json = base;
    for (const auto& [key, part] : line[0].items()) json[key] = part;
    const Tokenizer tokenizer = Tokenizer::from_json(json.dump(), "variant");
    for (const auto& row : line[1]) {
      const auto ids = row[1].get<std::vector<std::int32_t>>();
      EXPECT_EQ(tokenizer.encode(row[0].get<std::string>(), true), ids) << row[0] << " under " << line[0];
      EXPECT_EQ(tokenizer.decode(ids, false), row[2].get<std::string>()) << line[0];
    }
  }
}

// ["text", times, [number of ids, FNV-1a of the ids] by the bundled tokenizer, the same by the second]. About
// 1 MB each, a second at most: whatever grows faster than n log n takes minutes.
TEST(Tokenizer, AgreesOnLongTexts) {
  for (const auto& line : lines("long_texts.jsonl")) {
    std::string text;
    for (int i = 0; i < line[1].get<int>(); ++i) text += line[0].get<std::string>();
    for (const auto& [tokenizer, digest] : {std::pair(&bundled(), &line[2]), {&second(), &line[3]}}) {
      [[maybe_unused]] const auto start = std::chrono::steady_clock::now();
      const auto ids = tokenizer->encode(text, false);
#ifndef __SANITIZE_ADDRESS__
      EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(1)) << line[0];
#endif
      std::uint64_t hash = 0xcbf29ce484222325u;
      for (const std::int32_t id : ids) hash = (hash ^ static_cast<std::uint32_t>(id)) * 0x100000001b3u;
      EXPECT_EQ(ids.size(), digest->at(0).get<std::size_t>()) << line[0];
      EXPECT_EQ(hash, digest->at(1).get<std::uint64_t>()) << line[0];
      EXPECT_EQ(tokenizer->decode(ids, false), text);
    }
  }
}

}  // namespace
}  // namespace fathom
