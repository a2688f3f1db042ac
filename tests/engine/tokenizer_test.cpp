// The tokenizer against its contract: merges, streaming, threads, the text it takes.
#include <atomic>
#include <thread>

#include "engine/checkpoint_writer.hpp"
#include "engine/tokenizer/bpe.hpp"
#include "engine/tokenizer/utf8.hpp"
#include "engine/tokenizer_data.hpp"

namespace fathom {
namespace {

// The textbook: scan all pairs, merge the leftmost of the lowest rank, start again.
std::vector<std::int32_t> merged_slowly(const text::Bpe& bpe, std::string_view piece) {
  std::vector<std::int32_t> tokens;
  for (const char c : piece) tokens.push_back(bpe.byte_tokens[static_cast<std::uint8_t>(c)]);
  while (true) {
    const text::Merge* best = nullptr;
    std::size_t place = 0;
    for (std::size_t i = 0; i + 1 < tokens.size(); ++i) {
      const text::Merge* merge = bpe.merges.find(tokens[i], tokens[i + 1]);
      if (merge == nullptr || (best != nullptr && merge->rank >= best->rank)) continue;
      best = merge;
      place = i;
    }
    if (best == nullptr) return tokens;
    tokens[place] = best->token;
    tokens.erase(tokens.begin() + static_cast<std::ptrdiff_t>(place) + 1);
  }
}

TEST(Bpe, MergesInTheOrderOfTheRanks) {
  Random random(7);
  for (int round = 0; round < 200; ++round) {
    text::Bpe bpe;
    bpe.byte_tokens.fill(-1);
    for (int i = 0; i < 3; ++i) bpe.byte_tokens[static_cast<std::size_t>('a' + i)] = i;
    std::int32_t tokens = 3;
    for (std::uint32_t rank = 0; rank < 60; ++rank) {
      const auto left = static_cast<std::int32_t>(random.integer(0, tokens - 1));
      const auto right = static_cast<std::int32_t>(random.integer(0, tokens - 1));
      if (bpe.merges.find(left, right) == nullptr) bpe.merges.insert(left, right, {rank, tokens++});
    }
    for (const std::int64_t size : {1, 2, 7, 47, 48, 49, 64, 65, 300}) {
      std::string piece;
      for (std::int64_t i = 0; i < size; ++i) piece += static_cast<char>('a' + random.integer(0, round % 3));
      const auto expected = merged_slowly(bpe, piece);
      text::PieceCache cache;
      for (int time = 0; time < 2; ++time) {  // the second from the cache
        std::vector<std::int32_t> got{-5};
        bpe.encode(piece, cache, got);
        ASSERT_EQ(got.front(), -5);
        got.erase(got.begin());
        ASSERT_EQ(got, expected) << piece;
      }
    }
  }
}

// One piece of a million bytes in which every byte takes part in twenty merges.
TEST(Bpe, MergesALongPiece) {
  text::Bpe bpe;
  bpe.byte_tokens.fill(0);
  for (std::int32_t i = 0; i < 20; ++i) bpe.merges.insert(i, i, {static_cast<std::uint32_t>(i), i + 1});
  text::PieceCache cache;
  std::vector<std::int32_t> got;
  bpe.encode(std::string((1 << 20) + 5, 'a'), cache, got);
  EXPECT_EQ(got, (std::vector<std::int32_t>{20, 2, 0}));
}

TEST(TokenStream, GivesWholeCharacters) {
  Random random(3);
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::int32_t> tokens;
    for (int i = 0; i < 12; ++i) {  // mostly bytes, so that characters break in every way
      tokens.push_back(
          static_cast<std::int32_t>(random.integer(0, i % 4 == 0 ? bundled().vocab_size() + 3 : 260)));
    }
    for (const bool skip : {false, true}) {
      TokenStream stream(bundled(), skip);
      std::string joined;
      for (const std::int32_t token : tokens) {
        const std::string piece = stream.push(token);
        EXPECT_FALSE(find_broken_utf8(piece).has_value());
        joined += piece;
      }
      joined += stream.finish();
      EXPECT_EQ(joined, bundled().decode(tokens, skip));
      EXPECT_EQ(stream.finish(), "");
    }
  }
}

TEST(TokenStream, WaitsForTheRestOfACharacter) {
  const auto tokens = bundled().encode("🙂", false);
  ASSERT_EQ(tokens.size(), 4u);  // no merges: a token a byte
  TokenStream stream(bundled());
  for (int i = 0; i < 3; ++i) EXPECT_EQ(stream.push(tokens[static_cast<std::size_t>(i)]), "");
  EXPECT_EQ(stream.push(tokens[3]), "🙂");
  EXPECT_EQ(stream.push(tokens[0]), "");
  EXPECT_EQ(stream.push(*bundled().find_token("a")), "\ufffda");  // it cannot become a character any more
  EXPECT_EQ(stream.push(tokens[0]), "");
  EXPECT_EQ(stream.push(tokens[1]), "");
  EXPECT_EQ(stream.finish(), "\ufffd");
}

TEST(Tokenizer, NamesTheByteThatIsNotUtf8) {
  const std::pair<std::string, std::string> cases[] = {
      {"ab\xff", "byte 0xff at offset 2"},    {"\x80", "byte 0x80 at offset 0"},
      {"é\xc3", "byte 0xc3 at offset 2"},     {"12345678\xed\xa0\x80", "byte 0xed at offset 8"},
      {"a\xc0\x80", "byte 0xc0 at offset 1"}, {"\xf4\x90\x80\x80", "byte 0xf4 at offset 0"}};
  for (const auto& [text, message] : cases) {
    EXPECT_ERROR(InvalidArgument, message, static_cast<void>(bundled().encode(text, true)));
  }
}

TEST(Tokenizer, ServesSeveralThreads) {
  const auto all = lines("tokenizer_fuzz.jsonl");
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      for (std::size_t i = static_cast<std::size_t>(thread); i < all.size(); i += 3) {
        const auto ids = all[i][2].get<std::vector<std::int32_t>>();
        wrong += second().encode(all[i][0].get<std::string>(), false) != ids;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST(Tokenizer, KnowsItsTokens) {
  EXPECT_EQ(bundled().vocab_size(), 4096);
  EXPECT_EQ(bundled().begin_token(), 0);
  EXPECT_EQ(bundled().end_token(), 1);
  EXPECT_EQ(bundled().find_token("Ġthe"), bundled().encode(" the", false).at(0));
  EXPECT_EQ(bundled().find_token("no such token"), std::nullopt);
  EXPECT_EQ(bundled().token_bytes(*bundled().find_token("Ġthe")), " the");
  EXPECT_TRUE(bundled().is_special(1));
  EXPECT_FALSE(bundled().is_special(2));
  EXPECT_FALSE(bundled().is_special(5000));
  EXPECT_EQ(bundled().decode(std::vector<std::int32_t>{0, 4096, 1 << 30}, false), "<|begin_of_text|>");
  EXPECT_EQ(bundled().decode(std::vector<std::int32_t>{0, 1}, true), "");
  EXPECT_ERROR(InvalidArgument, "negative",
               static_cast<void>(bundled().decode(std::vector<std::int32_t>{-1}, true)));
  EXPECT_EQ(second().end_token(), std::nullopt);
  EXPECT_EQ(second().begin_token(), second().find_token("<|begin|>"));
  EXPECT_EQ(second().encode("", true), std::vector<std::int32_t>{*second().begin_token()});
}

// The official checkpoints have no template in tokenizer.json; tokenizer_config.json decides.
TEST(Tokenizer, BeginTokenOfTheConfigWithoutATemplate) {
  const TemporaryDirectory folder;
  const auto write = [&](const std::string& name, const nlohmann::json& json) {
    std::ofstream(folder / name) << json.dump();
  };
  const auto encoded = [&] { return Tokenizer::load(folder.path()).encode("The sea", true); };
  nlohmann::json file = nlohmann::json::parse(slurp(kModel / "tokenizer.json"));
  nlohmann::json config = nlohmann::json::parse(slurp(kModel / "tokenizer_config.json"));
  const auto with_begin = bundled().encode("The sea", true);
  const auto plain = bundled().encode("The sea", false);
  ASSERT_NE(with_begin, plain);

  file["post_processor"] = {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", false}};
  write("tokenizer.json", file);
  write("tokenizer_config.json", config);
  EXPECT_EQ(encoded(), with_begin);
  config["bos_token"] = config["bos_token"]["content"];  // as text
  write("tokenizer_config.json", config);
  EXPECT_EQ(encoded(), with_begin);
  config["add_bos_token"] = false;
  write("tokenizer_config.json", config);
  EXPECT_EQ(encoded(), plain);
  config.erase("add_bos_token");
  write("tokenizer_config.json", config);
  EXPECT_EQ(encoded(), plain);
  config["add_bos_token"] = true;
  config.erase("bos_token");
  write("tokenizer_config.json", config);
  EXPECT_ERROR(FileError, "'bos_token'", static_cast<void>(encoded()));
  config["bos_token"] = "no such token";
  write("tokenizer_config.json", config);
  EXPECT_ERROR(FileError, "'bos_token'", static_cast<void>(encoded()));

  // A template has the last word.
  file = nlohmann::json::parse(slurp(kModel / "tokenizer.json"));
  write("tokenizer.json", file);
  config = nlohmann::json::parse(slurp(kModel / "tokenizer_config.json"));
  write("tokenizer_config.json", config);
  EXPECT_EQ(encoded(), with_begin);
}

}  // namespace
}  // namespace fathom
