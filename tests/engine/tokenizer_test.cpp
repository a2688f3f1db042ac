// The tokenizer against recorded answers of Hugging Face tokenizers, and against its own contract.
#include "fathom/engine/tokenizer.hpp"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "engine/tokenizer/pre_tokenizer.hpp"
#include "ops/op_test.hpp"

namespace fathom {
namespace {

std::string slurp(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  EXPECT_TRUE(stream.good()) << file;
  return (std::ostringstream() << stream.rdbuf()).str();
}

const std::filesystem::path kRoot = FATHOM_SOURCE_DIR;
const std::filesystem::path kModel = kRoot / "models/tiny-dsv32";
const std::filesystem::path kData = kRoot / "tests/engine/data";

const Tokenizer& bundled() {
  static const Tokenizer tokenizer = Tokenizer::load(kModel);
  return tokenizer;
}

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

const Tokenizer& second() {
  static const Tokenizer tokenizer = Tokenizer::load(kData / "second");
  return tokenizer;
}

std::vector<nlohmann::json> lines(const std::string& name) {
  std::istringstream stream(slurp(kData / name));
  std::vector<nlohmann::json> all;
  for (std::string line; std::getline(stream, line);) all.push_back(nlohmann::json::parse(line));
  return all;
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
    const auto* behavior = std::find_if(std::begin(kBehaviors), std::end(kBehaviors),
                                        [&](const auto& known) { return known.first == line[1]; });
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

}  // namespace
}  // namespace fathom
