// The tokenizer against recorded answers of Hugging Face tokenizers, and against its own contract.
#include "fathom/engine/tokenizer.hpp"

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

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

}  // namespace
}  // namespace fathom
