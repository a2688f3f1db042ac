#include "engine/loader/index.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "core/json.hpp"
#include "fathom/core/error.hpp"

namespace fathom::safetensors {
namespace {

// Of one folder, and fit to stand in a message.
bool is_file_name(std::string_view text) {
  const auto bad = [](char c) {
    return c == '/' || c == '\\' || static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
  };
  return !text.empty() && text.size() < 256 && text != "." && text != ".." &&
         std::none_of(text.begin(), text.end(), bad);
}

// Of {"metadata": anything, "weight_map": {name: file}} keeps the weight_map.
class IndexReader final : public JsonEvents {
 public:
  using JsonEvents::JsonEvents;
  Index index;

  bool null() override { return skip("null"); }
  bool boolean(bool) override { return skip("true or false"); }
  bool number_integer(number_integer_t) override { return skip("a number"); }
  bool number_unsigned(number_unsigned_t) override { return skip("a number"); }
  bool number_float(number_float_t, const string_t&) override { return skip("a number"); }
  bool start_array(std::size_t) override { return skip("a list") && enter(); }
  bool end_array() override { return leave(); }
  bool start_object(std::size_t) override {
    if (in_map_ && depth_ != 1) return unexpected("an object");
    return enter();
  }
  bool end_object() override { return leave(); }
  bool key(string_t& name) override {
    if (depth_ == 1) {
      if (!top_keys_.insert(name).second) refuse(fmt::format("the key '{}' occurs twice", printable(name)));
      in_map_ = name == "weight_map";
      found_ |= in_map_;
    } else if (in_map_) {
      if (!names_.insert(name).second) refuse(fmt::format("tensor '{}' is listed twice", printable(name)));
      name_ = std::move(name);
    }
    return true;
  }
  bool string(string_t& file) override {
    if (!in_map_ || depth_ != 2) return skip("a string");
    if (!is_file_name(file)) {
      refuse(fmt::format("'weight_map.{}' must name a file of the same directory, got '{}'", printable(name_),
                         printable(file)));
    }
    const auto [place, is_new] = rows_.emplace(file, static_cast<std::int32_t>(index.shards.size()));
    if (is_new) index.shards.push_back(file);
    index.tensors.emplace_back(std::move(name_), place->second);
    return true;
  }
  void finish() const {
    if (!found_) refuse("'weight_map' must be an object, got nothing");
  }

 private:
  bool unexpected(std::string_view kind) const override {
    if (!in_map_) refuse(fmt::format("must hold a JSON object, holds {}", kind));
    if (depth_ == 1) refuse(fmt::format("'weight_map' must be an object, got {}", kind));
    refuse(fmt::format("'weight_map.{}' must be a file name, got {}", printable(name_), kind));
  }
  bool skip(std::string_view kind) { return depth_ == 0 || in_map_ ? unexpected(kind) : true; }
  bool enter() {
    if (++depth_ > 64) refuse("must nest at most 64 objects and lists, nests deeper");
    return true;
  }
  bool leave() {
    if (--depth_ == 1) in_map_ = false;
    return true;
  }

  int depth_ = 0;
  bool in_map_ = false;
  bool found_ = false;
  std::string name_;
  std::unordered_map<std::string, std::int32_t> rows_;
  std::unordered_set<std::string> names_;
  std::unordered_set<std::string> top_keys_;
};

}  // namespace

Index parse_index(std::string_view text, std::string_view origin) {
  IndexReader reader(origin);
  parse_json_events(text, reader);
  reader.finish();
  return std::move(reader.index);
}

}  // namespace fathom::safetensors
