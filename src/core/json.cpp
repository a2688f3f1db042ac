#include "core/json.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/file.hpp"
#include "fathom/core/error.hpp"

namespace fathom {
namespace {

// nlohmann's message without its own prefixes: "syntax error while parsing value - unexpected ...".
std::string_view reason(std::string_view message) {
  for (const std::string_view marker : {"] ", "parse error", ": "}) {
    const std::size_t at = message.find(marker);
    if (at == std::string_view::npos) break;
    if (marker != "parse error") message.remove_prefix(at + marker.size());
  }
  return message;
}

}  // namespace

std::string printable(std::string_view text, std::size_t longest) {
  std::string out;
  for (const char c : text.substr(0, longest)) {
    const auto byte = static_cast<unsigned char>(c);
    out += byte < 0x20 || byte == 0x7f ? ' ' : c;
  }
  if (text.size() > longest) out += "...";
  // dump() replaces what is not UTF-8; its quotes and escapes are not wanted.
  const bool ascii =
      std::all_of(out.begin(), out.end(), [](char c) { return static_cast<signed char>(c) >= 0; });
  if (ascii) return out;
  const std::string safe = Json(out).dump(-1, ' ', false, Json::error_handler_t::replace);
  return Json::parse(safe).get<std::string>();
}

// Unlike nlohmann's own builder this one refuses a key that comes twice, and depth.
bool JsonTree::key(string_t& name) {
  const auto [place, is_new] = open_.back()->get_ref<Json::object_t&>().emplace(std::move(name), nullptr);
  if (!is_new) refuse(fmt::format("the key '{}' occurs twice in one object", printable(place->first)));
  member_ = &place->second;
  return true;
}

Json* JsonTree::add(Json value) {
  Json* place = &root_;
  if (!open_.empty() && open_.back()->is_array()) {
    place = &open_.back()->get_ref<Json::array_t&>().emplace_back();
  } else if (!open_.empty()) {
    place = member_;
  }
  *place = std::move(value);
  return place;
}

bool JsonTree::open(Json value) {
  if (static_cast<int>(open_.size()) == max_depth_) {
    refuse(fmt::format("must nest at most {} objects and lists, nests deeper", max_depth_));
  }
  // Stable: a container that is open does not move, because only the innermost one grows.
  open_.push_back(add(std::move(value)));
  return true;
}

bool JsonTree::close() {
  open_.pop_back();
  return true;
}

void JsonEvents::refuse(std::string_view what) const {
  throw FileError(fmt::format("{}: {}", origin_, what));
}

bool JsonEvents::unexpected(std::string_view kind) const { refuse(fmt::format("unexpected {}", kind)); }

bool JsonEvents::parse_error(std::size_t position, const std::string&,
                             const nlohmann::json::exception& error) {
  // `position` counts the bytes read, the offending one included.
  const std::string_view before = text_.substr(0, std::min(position == 0 ? 0 : position - 1, text_.size()));
  const auto line = std::count(before.begin(), before.end(), '\n') + 1;
  const std::size_t line_start = before.rfind('\n') == std::string_view::npos ? 0 : before.rfind('\n') + 1;
  refuse(fmt::format("broken JSON at line {}, column {}: {}", line, before.size() - line_start + 1,
                     printable(reason(error.what()), 160)));
}

void parse_json_events(std::string_view text, JsonEvents& events) {
  events.text_ = text;
  Json::sax_parse(text.begin(), text.end(), &events);
}

Json parse_json(std::string_view text, std::string_view origin, const JsonLimits& limits) {
  if (static_cast<std::int64_t>(text.size()) > limits.max_bytes) {
    throw FileError(
        fmt::format("{}: must have at most {} bytes, has {}", origin, limits.max_bytes, text.size()));
  }
  JsonTree builder(origin, limits.max_depth);
  parse_json_events(text, builder);
  return builder.take();
}

Json read_json(const std::filesystem::path& file, const JsonLimits& limits) {
  return parse_json(read_file(file, limits.max_bytes), file.string(), limits);
}

std::string describe_json(const Json* value) {
  if (value == nullptr || value->is_null()) return "nothing";
  if (value->is_object()) return "an object";
  if (value->is_array()) return fmt::format("a list of {}", value->size());
  if (value->is_string()) return fmt::format("'{}'", printable(value->get_ref<const std::string&>()));
  return value->dump();
}

JsonObject::JsonObject(const Json& value, std::string origin, std::string path)
    : value_(&value), origin_(std::move(origin)), path_(std::move(path)) {
  if (value.is_object()) return;
  if (path_.empty())
    throw FileError(fmt::format("{}: must hold a JSON object, holds {}", origin_, describe_json(&value)));
  throw FileError(fmt::format("{}: '{}' must be an object, got {}", origin_, path_, describe_json(&value)));
}

const Json* JsonObject::find(std::string_view key) const {
  const auto place = value_->find(key);
  return place == value_->end() || place->is_null() ? nullptr : &*place;
}

std::string JsonObject::path(std::string_view key) const {
  return path_.empty() ? std::string(key) : fmt::format("{}.{}", path_, key);
}

void JsonObject::fail(std::string_view key, std::string_view expected) const {
  throw FileError(
      fmt::format("{}: '{}' must be {}, got {}", origin_, path(key), expected, describe_json(find(key))));
}

namespace {
// Integers of JSON are signed or unsigned in nlohmann's tree; unsigned ones may exceed int64.
std::optional<std::int64_t> as_integer(const Json& value) {
  if (value.is_number_unsigned()) {
    const auto wide = value.get<std::uint64_t>();
    if (!std::in_range<std::int64_t>(wide)) return std::nullopt;
    return static_cast<std::int64_t>(wide);
  }
  if (value.is_number_integer()) return value.get<std::int64_t>();
  return std::nullopt;
}
}  // namespace

std::int64_t JsonObject::integer(std::string_view key, std::int64_t least, std::int64_t most,
                                 std::optional<std::int64_t> fallback) const {
  const Json* value = find(key);
  if (value == nullptr && fallback) return *fallback;
  const auto number = value == nullptr ? std::nullopt : as_integer(*value);
  if (!number || *number < least || *number > most) {
    fail(key, fmt::format("an integer from {} to {}", least, most));
  }
  return *number;
}

double JsonObject::number(std::string_view key, double least, double most,
                          std::optional<double> fallback) const {
  const Json* value = find(key);
  if (value == nullptr && fallback) return *fallback;
  const double number = value != nullptr && value->is_number() ? value->get<double>() : std::nan("");
  if (!(number >= least && number <= most)) fail(key, fmt::format("a number from {} to {}", least, most));
  return number;
}

bool JsonObject::boolean(std::string_view key, std::optional<bool> fallback) const {
  const Json* value = find(key);
  if (value == nullptr && fallback) return *fallback;
  if (value == nullptr || !value->is_boolean()) fail(key, "true or false");
  return value->get<bool>();
}

std::string JsonObject::string(std::string_view key, std::optional<std::string> fallback) const {
  const Json* value = find(key);
  if (value == nullptr && fallback) return *std::move(fallback);
  if (value == nullptr || !value->is_string()) fail(key, "a string");
  return value->get<std::string>();
}

JsonObject JsonObject::object(std::string_view key) const {
  const Json* value = find(key);
  if (value == nullptr) fail(key, "an object");
  return JsonObject(*value, origin_, path(key));
}

const Json& JsonObject::list(std::string_view key) const {
  const Json* value = find(key);
  if (value == nullptr || !value->is_array()) fail(key, "a list");
  return *value;
}

std::vector<std::int64_t> JsonObject::integers(std::string_view key, std::int64_t least,
                                               std::int64_t most) const {
  std::vector<std::int64_t> numbers;
  for (const Json& value : list(key)) {
    const auto number = as_integer(value);
    if (!number || *number < least || *number > most) {
      throw FileError(fmt::format("{}: '{}' must be a list of integers from {} to {}, got {} in it", origin_,
                                  path(key), least, most, describe_json(&value)));
    }
    numbers.push_back(*number);
  }
  return numbers;
}

}  // namespace fathom
