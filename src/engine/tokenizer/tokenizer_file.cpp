#include "engine/tokenizer/tokenizer_file.hpp"

#include <fmt/format.h>

namespace fathom::text {
namespace {

// A tree of 128,000 tokens and as many merges would take most of the time that loading takes, so those two
// are taken from the stream of events; the tree sees null in their places.
class Events final : public JsonTree {
 public:
  Events(std::string_view origin, TokenizerFile& file) : JsonTree(origin), file_(file) {}

  bool null() override { return place_ == Place::tree ? JsonTree::null() : odd("null"); }
  bool boolean(bool value) override {
    return place_ == Place::tree ? JsonTree::boolean(value) : odd(value ? "true" : "false");
  }
  bool number_integer(number_integer_t value) override {
    return place_ == Place::tree ? JsonTree::number_integer(value) : odd(std::to_string(value));
  }
  bool number_float(number_float_t value, const string_t& text) override {
    return place_ == Place::tree ? JsonTree::number_float(value, text) : odd(printable(text));
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (place_ == Place::tree) return JsonTree::number_unsigned(value);
    if (place_ != Place::vocabulary || value > static_cast<number_unsigned_t>(kMaxTokenId)) {
      return odd(std::to_string(value));
    }
    const auto id = static_cast<std::int32_t>(value);
    if (file_.vocabulary->has(id)) {
      refuse(fmt::format("'model.vocab' gives '{}' the id {}, which '{}' has", printable(token_), id,
                         printable(file_.vocabulary->content(id))));
    }
    if (!file_.vocabulary->insert(token_, id)) {
      refuse(fmt::format("the key '{}' occurs twice in one object", printable(token_)));
    }
    return true;
  }
  bool string(string_t& value) override {
    switch (place_) {
      case Place::tree:
        return JsonTree::string(value);
      case Place::vocabulary:
        return odd("'" + printable(value) + "'");
      case Place::merges:
        return split_merge(value);
      case Place::merge:
        break;
    }
    if (++count_ > 2 || value.empty()) return odd("something else");
    auto& merge = file_.merges->back();
    (count_ == 1 ? merge.first : merge.second) = value;
    return true;
  }
  bool key(string_t& name) override {
    if (place_ == Place::vocabulary) {
      token_ = name;
      return true;
    }
    if (depth() <= 2) keys_[depth() - 1] = name;
    return JsonTree::key(name);
  }
  bool start_object(std::size_t size) override {
    if (place_ != Place::tree) return odd("an object");
    if (!at("vocab")) return JsonTree::start_object(size);
    place_ = Place::vocabulary;
    file_.vocabulary.emplace();
    return JsonTree::null();
  }
  bool end_object() override {
    if (place_ == Place::tree) return JsonTree::end_object();
    place_ = Place::tree;
    return true;
  }
  bool start_array(std::size_t size) override {
    if (place_ == Place::merges) {
      place_ = Place::merge;
      count_ = 0;
      file_.merges->emplace_back();
      return true;
    }
    if (place_ != Place::tree) return odd("a list");
    if (!at("merges")) return JsonTree::start_array(size);
    place_ = Place::merges;
    file_.merges.emplace();
    return JsonTree::null();
  }
  bool end_array() override {
    if (place_ == Place::tree) return JsonTree::end_array();
    if (place_ == Place::merge && count_ != 2) return odd("something else");
    place_ = place_ == Place::merge ? Place::merges : Place::tree;
    return true;
  }

 private:
  enum class Place { tree, vocabulary, merges, merge };

  bool at(std::string_view name) const { return depth() == 2 && keys_[0] == "model" && keys_[1] == name; }

  [[noreturn]] bool odd(const std::string& what) const {
    if (place_ == Place::vocabulary) {
      refuse(fmt::format("'model.vocab' gives '{}' the id {}, expected an integer from 0 to {}",
                         printable(token_), what, kMaxTokenId));
    }
    const std::size_t index = file_.merges->size() - (place_ == Place::merge ? 1 : 0);
    refuse(fmt::format("'model.merges[{}]' must be two tokens, got {}", index, what));
  }

  bool split_merge(const std::string& text) {
    const std::size_t space = text.find(' ');
    if (space == 0 || space == text.npos || space + 1 == text.size() ||
        text.find(' ', space + 1) != text.npos) {
      odd("'" + printable(text) + "'");
    }
    file_.merges->emplace_back(text.substr(0, space), text.substr(space + 1));
    return true;
  }

  TokenizerFile& file_;
  Place place_ = Place::tree;
  std::string keys_[2];  // of the root and of the object below it
  std::string token_;
  int count_ = 0;  // tokens of this merge
};

}  // namespace

TokenizerFile parse_tokenizer_file(std::string_view text, const std::string& origin) {
  TokenizerFile file;
  Events events(origin, file);
  parse_json_events(text, events);
  file.rest = events.take();
  return file;
}

}  // namespace fathom::text
