#include "engine/tokenizer/parts.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "core/json.hpp"
#include "engine/tokenizer/byte_level.hpp"
#include "engine/tokenizer/tokenizer_file.hpp"
#include "engine/tokenizer/utf8.hpp"
#include "fathom/core/error.hpp"

namespace fathom::text {
namespace {

constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

class Reader {
 public:
  Reader(TokenizerFile& file, const std::string& origin) : file_(file), root_(file.rest, origin) {}

  TokenizerParts run() {
    if (root_.string("version", "1.0") != "1.0") root_.fail("version", "'1.0'");
    for (const char* key : {"truncation", "padding"}) {
      if (root_.has(key)) root_.fail(key, "null (nothing else is supported)");
    }
    if (root_.has("normalizer")) read_normalizer(root_.object("normalizer"));
    read_model(root_.object("model"));
    if (root_.has("added_tokens")) read_added_tokens();
    collect_bytes();
    read_pre_tokenizer(root_.object("pre_tokenizer"));
    if (!ends_in_bytes_) unsupported("pre_tokenizer", "without a ByteLevel step");
    if (root_.has("post_processor")) read_post_processor(root_.object("post_processor"));
    read_decoder(root_.object("decoder"));
    return std::move(parts_);
  }

 private:
  [[noreturn]] void fail(std::string_view path, std::string_view what) const {
    throw FileError(fmt::format("{}: '{}' {}", root_.origin(), path, what));
  }
  [[noreturn]] void unsupported(std::string_view path, std::string_view what) const {
    fail(path, fmt::format("{} is not supported", what));
  }
  [[noreturn]] void unsupported_type(const JsonObject& object, std::string_view path) const {
    unsupported(path, fmt::format("of type '{}'", printable(object.string("type"))));
  }
  // Calls `visit(object, path)` for each object of a list.
  template <class F>
  void each(const JsonObject& object, std::string_view key, const F& visit) const {
    std::size_t index = 0;
    for (const Json& item : object.list(key)) {
      const std::string path = fmt::format("{}[{}]", object.path(key), index++);
      visit(JsonObject(item, root_.origin(), path), path);
    }
  }

  void read_normalizer(const JsonObject& normalizer) const {
    if (normalizer.string("type") == "Sequence" && normalizer.list("normalizers").empty()) return;
    unsupported_type(normalizer, "normalizer");
  }

  void read_model(const JsonObject& model) {
    if (model.string("type", "BPE") != "BPE") unsupported_type(model, "model");
    if (model.has("dropout") && model.number("dropout", 0, 1) > 0) {
      unsupported("model.dropout", "above 0 (encoding would be random)");
    }
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      if (!model.string(key, "").empty()) unsupported(model.path(key), "with text");
    }
    if (model.boolean("byte_fallback", false)) unsupported("model.byte_fallback", "true");
    parts_.bpe.fuse_unknown = model.boolean("fuse_unk", false);
    if (!file_.vocabulary) model.fail("vocab", "an object");
    if (!file_.merges) model.fail("merges", "a list");
    parts_.tokens = *std::move(file_.vocabulary);
    if (parts_.tokens.empty()) fail("model.vocab", "is empty");
    if (model.has("unk_token")) {
      parts_.bpe.unknown = parts_.tokens.find(model.string("unk_token"));
      if (!parts_.bpe.unknown) model.fail("unk_token", "a token of 'model.vocab'");
    }
    read_bytes();
    read_merges();
    if (model.boolean("ignore_merges", false)) {
      for (std::int32_t id = 0; id < parts_.tokens.size(); ++id) {
        const auto bytes = parts_.tokens.has(id) ? bytes_of(parts_.tokens.content(id)) : std::nullopt;
        if (bytes) parts_.bpe.whole_pieces.insert(*bytes, id);
      }
    }
  }

  void read_bytes() {
    for (int byte = 0; byte < 256; ++byte) {
      std::string name;
      append_utf8(name, byte_character(static_cast<std::uint8_t>(byte)));
      const auto token = parts_.tokens.find(name);
      parts_.bpe.byte_tokens[static_cast<std::size_t>(byte)] = token.value_or(-1);
      const bool in_utf8 = byte < 0xc0 || (byte > 0xc1 && byte < 0xf5);
      if (!token && in_utf8 && !parts_.bpe.unknown) {
        fail("model.vocab",
             fmt::format("has no token '{}' for the byte 0x{:02x}, and 'model.unk_token' is null", name,
                         byte));
      }
    }
  }

  void read_merges() {
    parts_.bpe.merges = MergeTable(file_.merges->size());
    std::uint32_t rank = 0;
    for (const auto& [left, right] : *file_.merges) {
      const std::int32_t first = merge_token(left, rank);
      const std::int32_t second = merge_token(right, rank);
      parts_.bpe.merges.insert(first, second, {rank, merge_token(left + right, rank)});
      ++rank;
    }
  }
  std::int32_t merge_token(const std::string& content, std::uint32_t rank) const {
    if (const auto id = parts_.tokens.find(content)) return *id;
    fail(fmt::format("model.merges[{}]", rank),
         fmt::format("needs the token '{}', which 'model.vocab' lacks", printable(content)));
  }

  void read_added_tokens() {
    std::vector<AddedToken> tokens;
    StringMap<std::int32_t> seen;
    each(root_, "added_tokens", [&](const JsonObject& object, const std::string& path) {
      AddedToken token;
      token.content = object.string("content");
      if (token.content.empty()) fail(path + ".content", "is empty");
      token.id = static_cast<std::int32_t>(object.integer("id", 0, kMaxTokenId));
      token.single_word = object.boolean("single_word", false);
      token.lstrip = object.boolean("lstrip", false);
      token.rstrip = object.boolean("rstrip", false);
      token.special = object.boolean("special", false);
      token.normalized = object.boolean("normalized", !token.special);
      if (!seen.emplace(token.content, token.id).second) {
        fail(path, fmt::format("adds '{}' a second time", printable(token.content)));
      }
      add_token(token, path);
      tokens.push_back(std::move(token));
    });
    parts_.special.resize(static_cast<std::size_t>(parts_.tokens.size()));
    for (const AddedToken& token : tokens) parts_.special[static_cast<std::size_t>(token.id)] = token.special;
  }
  void add_token(const AddedToken& token, const std::string& path) {
    const auto known = parts_.tokens.find(token.content);
    if (known && *known != token.id) {
      fail(path, fmt::format("gives '{}' the id {}, 'model.vocab' gives it {}", printable(token.content),
                             token.id, *known));
    }
    if (!known && parts_.tokens.has(token.id)) {
      fail(path, fmt::format("gives '{}' the id {}, which '{}' has", printable(token.content), token.id,
                             printable(parts_.tokens.content(token.id))));
    }
    if (!known) parts_.tokens.insert(token.content, token.id);
    parts_.added.insert(token);
  }

  void collect_bytes() {
    parts_.special.resize(static_cast<std::size_t>(parts_.tokens.size()));
    parts_.first_byte.reserve(parts_.special.size() + 1);
    parts_.first_byte.push_back(0);
    for (std::int32_t id = 0; id < parts_.tokens.size(); ++id) {
      // Added tokens, too, are read as byte characters if they consist of such.
      const std::string_view content = parts_.tokens.content(id);
      if (const auto bytes = bytes_of(content)) {
        parts_.all_bytes += *bytes;
      } else {
        parts_.all_bytes += content;
      }
      parts_.first_byte.push_back(static_cast<std::uint32_t>(parts_.all_bytes.size()));
    }
  }

  void read_pre_tokenizer(const JsonObject& step) {
    if (ends_in_bytes_) unsupported("pre_tokenizer", "with a step after ByteLevel");
    const std::string type = step.string("type");
    if (type == "Sequence") {
      each(step, "pretokenizers",
           [&](const JsonObject& inner, const std::string&) { read_pre_tokenizer(inner); });
    } else if (type == "Split") {
      read_split(step);
    } else if (type == "Digits") {
      const bool single = step.boolean("individual_digits", false);
      parts_.rules.push_back({.pattern = Regex::compile("\\p{N}"),
                              .behavior = single ? SplitBehavior::isolated : SplitBehavior::contiguous});
    } else if (type == "ByteLevel") {
      SplitRule rule{.add_prefix_space = step.boolean("add_prefix_space", true)};
      if (step.boolean("use_regex", true)) rule.pattern = Regex::compile(kGpt2Pattern);
      if (rule.add_prefix_space || rule.pattern) parts_.rules.push_back(std::move(rule));
      ends_in_bytes_ = true;
    } else {
      unsupported_type(step, step.path("type").substr(0, step.path("type").size() - 5));
    }
  }
  void read_split(const JsonObject& step) {
    const JsonObject pattern = step.object("pattern");
    const bool literal = pattern.has("String");
    const char* key = literal ? "String" : "Regex";
    SplitRule rule{.behavior = read_behavior(step), .invert = step.boolean("invert", false)};
    const std::string text = pattern.string(key);
    try {
      rule.pattern = literal ? Regex::literal(text) : Regex::compile(text);
    } catch (const PatternError& error) {
      fail(pattern.path(key), fmt::format("cannot be '{}': {}", printable(text), error.what()));
    }
    parts_.rules.push_back(std::move(rule));
  }
  static SplitBehavior read_behavior(const JsonObject& step) {
    constexpr std::pair<std::string_view, SplitBehavior> kNames[] = {
        {"Removed", SplitBehavior::removed},
        {"Isolated", SplitBehavior::isolated},
        {"MergedWithPrevious", SplitBehavior::merged_with_previous},
        {"MergedWithNext", SplitBehavior::merged_with_next},
        {"Contiguous", SplitBehavior::contiguous}};
    const std::string name = step.string("behavior");
    for (const auto& [known, behavior] : kNames) {
      if (name == known) return behavior;
    }
    step.fail("behavior", "one of Removed, Isolated, MergedWithPrevious, MergedWithNext, Contiguous");
  }

  void read_post_processor(const JsonObject& step) {
    const std::string type = step.string("type");
    if (type == "Sequence") {
      each(step, "processors",
           [&](const JsonObject& inner, const std::string&) { read_post_processor(inner); });
    } else if (type == "TemplateProcessing") {
      if (parts_.has_template) unsupported("post_processor", "with two templates");
      parts_.has_template = true;
      read_template(step);
    } else if (type != "ByteLevel") {  // ByteLevel changes offsets only
      unsupported_type(step, "post_processor");
    }
  }
  void read_template(const JsonObject& step) {
    parts_.pattern.clear();
    each(step, "single", [&](const JsonObject& item, const std::string& path) {
      if (item.has("Sequence")) {
        if (item.object("Sequence").string("id") != "A") fail(path, "must be the sequence 'A'");
        parts_.pattern.push_back(TokenizerParts::kText);
        return;
      }
      const std::string name = item.object("SpecialToken").string("id");
      const JsonObject specials = step.object("special_tokens");
      if (!specials.has(name))
        fail(path, fmt::format("names '{}', which 'special_tokens' lacks", printable(name)));
      const JsonObject entry(*specials.find(name), root_.origin(), specials.path(printable(name)));
      for (const std::int64_t id : entry.integers("ids", 0, kMaxTokenId)) {
        if (!parts_.tokens.has(static_cast<std::int32_t>(id))) {
          fail(entry.path("ids"), fmt::format("names the id {}, which no token has", id));
        }
        parts_.pattern.push_back(static_cast<std::int32_t>(id));
      }
    });
    const auto texts = std::count(parts_.pattern.begin(), parts_.pattern.end(), TokenizerParts::kText);
    if (texts != 1)
      fail(step.path("single"), fmt::format("must hold the sequence 'A' once, holds it {} times", texts));
    if (parts_.pattern.front() != TokenizerParts::kText) parts_.begin_token = parts_.pattern.front();
  }

  void read_decoder(const JsonObject& step) const {
    const std::string type = step.string("type");
    if (type == "ByteLevel") return;
    if (type == "Sequence" && step.list("decoders").size() == 1) {
      return read_decoder(JsonObject(step.list("decoders")[0], root_.origin(), step.path("decoders[0]")));
    }
    unsupported_type(step, "decoder");
  }

  TokenizerFile& file_;
  JsonObject root_;
  TokenizerParts parts_;
  bool ends_in_bytes_ = false;
};

// bos_token and eos_token: a text, or an object with the text under 'content'.
std::optional<std::int32_t> named_token(const TokenizerParts& parts, const JsonObject& config,
                                        const char* key) {
  const Json* value = config.find(key);
  if (value == nullptr) return std::nullopt;
  const std::string content = value->is_object() ? config.object(key).string("content") : config.string(key);
  const auto found = parts.tokens.find(content);
  if (!found) config.fail(key, "a token of tokenizer.json");
  return found;
}

}  // namespace

TokenizerParts read_parts(std::string_view text, const std::string& origin, std::string_view config,
                          const std::string& config_origin) {
  TokenizerFile file = parse_tokenizer_file(text, origin);
  TokenizerParts parts = Reader(file, origin).run();
  if (config.empty()) return parts;
  const Json config_json = parse_json(config, config_origin);
  const JsonObject config_object(config_json, config_origin);
  if (!parts.begin_token) parts.begin_token = named_token(parts, config_object, "bos_token");
  parts.end_token = named_token(parts, config_object, "eos_token");
  // The official files have no template: there Hugging Face makes one of these two.
  if (!parts.has_template && config_object.boolean("add_bos_token", false)) {
    if (!parts.begin_token) config_object.fail("bos_token", "a token, since 'add_bos_token' is true");
    parts.pattern = {*parts.begin_token, TokenizerParts::kText};
  }
  return parts;
}

}  // namespace fathom::text
