// What the tokenizer refuses, and what it says then.
#include <tuple>

#include "engine/tokenizer_data.hpp"

namespace fathom {
namespace {

TEST(Tokenizer, RefusesAPatternThatGivesUp) {
  auto json = nlohmann::json::parse(slurp(kData / "second/tokenizer.json"));
  json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(?:a+b?)+[cd]";
  const Tokenizer tokenizer = Tokenizer::from_json(json.dump(), "slow.json");
  EXPECT_ERROR(InvalidArgument, "the pattern '(?:a+b?)+[cd]' gives up at byte 0 of 64: match limit exceeded",
               static_cast<void>(tokenizer.encode(std::string(64, 'a'), false)));
}

// Each change of a good file gives one line that names the file and the key.
TEST(Tokenizer, RefusesBadFiles) {
  const auto good = nlohmann::json::parse(slurp(kData / "second/tokenizer.json"));
  const auto expect = [](const std::string& text, const std::string& message) {
    try {
      static_cast<void>(Tokenizer::from_json(text, "bad.json"));
      ADD_FAILURE() << "expected FileError: " << message;
    } catch (const FileError& error) {
      const std::string said = error.what();
      EXPECT_TRUE(said.starts_with("bad.json: ")) << said;
      EXPECT_NE(said.find(message), said.npos) << said << "\n  lacks " << message;
      EXPECT_EQ(said.find('\n'), said.npos) << said;
    }
  };
  const std::string whole = good.dump();
  expect(whole.substr(0, whole.size() / 2), "broken JSON at line 1");
  expect("[]", "must hold a JSON object");
  expect("", "broken JSON");

  const char* split = "/pre_tokenizer/pretokenizers/0";
  const auto at = [&](const char* rest) { return std::string(split) + rest; };
  const std::vector<std::tuple<std::string, std::string, std::string>> changes = {
      {"/model", "", "'model' must be an object, got nothing"},
      {"/version", R"("2.0")", "'version' must be '1.0', got '2.0'"},
      {"/truncation", R"({"max_length": 5})", "'truncation' must be null"},
      {"/normalizer", R"({"type": "NFC"})", "'normalizer' of type 'NFC' is not supported"},
      {"/model/type", R"("WordPiece")", "'model' of type 'WordPiece' is not supported"},
      {"/model/vocab", "", "'model.vocab' must be an object, got nothing"},
      {"/model/vocab", "{}", "'model.vocab' is empty"},
      {"/model/vocab/a", "7", "'model.vocab' gives"},
      {"/model/vocab/a", "-1", "'model.vocab' gives 'a' the id -1, expected an integer from 0 to 4194303"},
      {"/model/vocab/a", "99999999999", "'model.vocab' gives 'a' the id 99999999999, expected an integer"},
      {"/model/vocab/a", "1.5", "'model.vocab' gives 'a' the id 1.5"},
      {"/model/vocab/a", "", "'model.vocab' has no token 'a' for the byte 0x61"},
      {"/model/merges", "", "'model.merges' must be a list, got nothing"},
      {"/model/merges/3", R"("a b c")", "'model.merges[3]' must be two tokens, got 'a b c'"},
      {"/model/merges/3", R"(["a"])", "'model.merges[3]' must be two tokens, got something else"},
      {"/model/merges/3", R"(["nope\n", "b"])",
       "'model.merges[3]' needs the token 'nope ', which 'model.vocab' lacks"},
      {"/model/merges/3", R"(["a", "Ġ"])", "'model.merges[3]' needs the token 'aĠ'"},
      {"/model/byte_fallback", "true", "'model.byte_fallback' true is not supported"},
      {"/model/dropout", "0.1", "'model.dropout' above 0"},
      {"/model/unk_token", R"("nope")", "'model.unk_token' must be a token of 'model.vocab', got 'nope'"},
      {"/model/end_of_word_suffix", R"("</w>")", "'model.end_of_word_suffix' with text is not supported"},
      {"/added_tokens/1/id", "1950", "'added_tokens[1]' gives '<|end|>' the id 1950, which '<|begin|>' has"},
      {"/added_tokens/1/id", "-4", "'added_tokens[1].id' must be an integer from 0 to 4194303, got -4"},
      {"/added_tokens/1/content", R"("<|begin|>")", "'added_tokens[1]' adds '<|begin|>' a second time"},
      {"/added_tokens/1/content", R"("")", "'added_tokens[1].content' is empty"},
      {"/added_tokens/1/content", R"("a")",
       "'added_tokens[1]' gives 'a' the id 1951, 'model.vocab' gives it"},
      {"/added_tokens/1/special", "3", "'added_tokens[1].special' must be true or false, got 3"},
      {"/pre_tokenizer", "", "'pre_tokenizer' must be an object, got nothing"},
      {"/pre_tokenizer/pretokenizers/1", "", "'pre_tokenizer' without a ByteLevel step is not supported"},
      {"/pre_tokenizer/pretokenizers/0", R"({"type": "ByteLevel"})",
       "'pre_tokenizer' with a step after ByteLevel"},
      {at("/type"), R"("Metaspace")",
       "'pre_tokenizer.pretokenizers[0]' of type 'Metaspace' is not supported"},
      {at("/behavior"), R"("Odd")", "'pre_tokenizer.pretokenizers[0].behavior' must be one of Removed"},
      {at("/pattern"), "{}", "'pre_tokenizer.pretokenizers[0].pattern.Regex' must be a string"},
      {at("/pattern/Regex"), R"("a(")",
       "'pre_tokenizer.pretokenizers[0].pattern.Regex' cannot be 'a(': a ')' is missing"},
      {at("/pattern/Regex"), R"("(a)\\1")", "cannot be '(a)\\1': '\\1' is not supported"},
      {at("/pattern/Regex"), R"("[b-a]")", "cannot be '[b-a]': a range of characters"},
      {at("/pattern/Regex"), R"("\\p{Nope}")", "cannot be '\\p{Nope}': '\\p{Nope}' is not supported"},
      {at("/pattern/Regex"), R"("\\p{N\nope}")", "'\\p{N ope}' is not supported"},
      {at("/pattern/Regex"), R"("(?<=a+)b")",
       "cannot be '(?<=a+)b': lookbehind assertion is not fixed length"},
      {"/post_processor", R"({"type": "BertProcessing"})",
       "'post_processor' of type 'BertProcessing' is not supported"},
      {"/post_processor/processors/1/special_tokens/<|begin|>/ids/0", "9999",
       "names the id 9999, which no token has"},
      {"/post_processor/processors/1/special_tokens/<|begin|>", "",
       "names '<|begin|>', which 'special_tokens' lacks"},
      {"/post_processor/processors/1/single/1", "", "must hold the sequence 'A' once, holds it 0 times"},
      {"/decoder", "", "'decoder' must be an object, got nothing"},
      {"/decoder/type", R"("Metaspace")", "'decoder' of type 'Metaspace' is not supported"},
  };
  for (const auto& [where, value, message] : changes) {
    auto json = good;
    const nlohmann::json::json_pointer pointer(where);
    if (value.empty()) {
      auto& parent = json[pointer.parent_pointer()];
      if (parent.is_array()) {
        parent.erase(std::stoul(pointer.back()));
      } else {
        parent.erase(pointer.back());
      }
    } else {
      json[pointer] = nlohmann::json::parse(value);
    }
    expect(json.dump(), message);
  }
  expect(R"({"model": {"type": "BPE", "type": "BPE"}})", "the key 'type' occurs twice");
  EXPECT_ERROR(FileError, "/nonexistent/tokenizer.json",
               static_cast<void>(Tokenizer::load("/nonexistent/tokenizer.json")));
  EXPECT_ERROR(FileError, "goldens/tokenizer.json", static_cast<void>(Tokenizer::load(kModel / "goldens")));
}

}  // namespace
}  // namespace fathom
