// The tokenizers and recorded answers that the tokenizer's tests share; tools/make_tokenizer_vectors.py wrote
// them.
#pragma once
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "fathom/engine/tokenizer.hpp"
#include "ops/op_test.hpp"

namespace fathom {

inline std::string slurp(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  EXPECT_TRUE(stream.good()) << file;
  return (std::ostringstream() << stream.rdbuf()).str();
}

inline const std::filesystem::path kRoot = FATHOM_SOURCE_DIR;
inline const std::filesystem::path kModel = kRoot / "models/tiny-dsv32";
inline const std::filesystem::path kData = kRoot / "tests/engine/data";

inline const Tokenizer& bundled() {
  static const Tokenizer tokenizer = Tokenizer::load(kModel);
  return tokenizer;
}

inline const Tokenizer& second() {
  static const Tokenizer tokenizer = Tokenizer::load(kData / "second");
  return tokenizer;
}

inline std::vector<nlohmann::json> lines(const std::string& name) {
  std::istringstream stream(slurp(kData / name));
  std::vector<nlohmann::json> all;
  for (std::string line; std::getline(stream, line);) all.push_back(nlohmann::json::parse(line));
  return all;
}

}  // namespace fathom
