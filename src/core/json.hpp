// JSON from files: strict parsing, and getters whose errors name the file and the key.
#pragma once
#include <cstdint>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fathom {

using Json = nlohmann::json;

struct JsonLimits {
  std::int64_t max_bytes = std::int64_t{256} << 20;
  int max_depth = 64;  ///< objects and arrays inside one another
};

/// Parses one JSON value. Throws FileError "origin: ... (line 3, column 7)" if the text is no JSON, names a
/// key twice in one object, nests deeper than the limit, or has invalid UTF-8.
Json parse_json(std::string_view text, std::string_view origin, const JsonLimits& limits = {});
/// parse_json of a file's content.
Json read_json(const std::filesystem::path& file, const JsonLimits& limits = {});

/// Receives a JSON text piece by piece, for files too large to build a tree of. Every function refuses its
/// piece unless it is overridden; overrides refuse by calling refuse().
class JsonEvents : public nlohmann::json_sax<Json> {
 public:
  explicit JsonEvents(std::string_view origin) : origin_(origin) {}

  /// Throws FileError "origin: what".
  [[noreturn]] void refuse(std::string_view what) const;

  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("true or false"); }
  bool number_integer(number_integer_t) override { return unexpected("a negative number"); }
  bool number_unsigned(number_unsigned_t) override { return unexpected("a number"); }
  bool number_float(number_float_t, const string_t&) override { return unexpected("a fraction"); }
  bool string(string_t&) override { return unexpected("a string"); }
  bool binary(binary_t&) override { return unexpected("binary data"); }
  bool start_object(std::size_t) override { return unexpected("an object"); }
  bool end_object() override { return true; }
  bool start_array(std::size_t) override { return unexpected("a list"); }
  bool end_array() override { return true; }
  bool key(string_t&) override { return unexpected("a key"); }
  bool parse_error(std::size_t position, const std::string& token,
                   const nlohmann::json::exception& error) final;

 protected:
  /// Called for a piece nobody expects here. Always throws; the default says "unexpected KIND".
  virtual bool unexpected(std::string_view kind) const;

 private:
  friend void parse_json_events(std::string_view text, JsonEvents& events);
  std::string_view origin_;
  std::string_view text_;
};

/// Builds the tree that parse_json gives. Derived handlers may keep pieces to themselves, as long as what
/// they hand on is a whole JSON value.
class JsonTree : public JsonEvents {
 public:
  explicit JsonTree(std::string_view origin, int max_depth = JsonLimits{}.max_depth)
      : JsonEvents(origin), max_depth_(max_depth) {}
  Json take() { return std::move(root_); }

  bool null() override { return add(nullptr) != nullptr; }
  bool boolean(bool value) override { return add(value) != nullptr; }
  bool number_integer(number_integer_t value) override { return add(value) != nullptr; }
  bool number_unsigned(number_unsigned_t value) override { return add(value) != nullptr; }
  bool number_float(number_float_t value, const string_t&) override { return add(value) != nullptr; }
  bool string(string_t& value) override { return add(std::move(value)) != nullptr; }
  bool start_object(std::size_t) override { return open(Json::object()); }
  bool end_object() override { return close(); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_array() override { return close(); }
  bool key(string_t& name) override;

 protected:
  /// Objects and lists that are open.
  std::size_t depth() const { return open_.size(); }

 private:
  Json* add(Json value);
  bool open(Json value);
  bool close();

  int max_depth_;
  Json root_;
  std::vector<Json*> open_;
  Json* member_ = nullptr;
};

/// Throws FileError as parse_json does, or what the handler throws.
void parse_json_events(std::string_view text, JsonEvents& events);

/// Text from a file as it may stand in a one-line message: control characters and broken UTF-8 replaced, cut
/// after `longest` bytes.
std::string printable(std::string_view text, std::size_t longest = 80);

/// "'abc'", "17", "an object", "a list of 3", "nothing"; long text is cut.
std::string describe_json(const Json* value);

/// One object of a JSON file. Its getters throw FileError "origin: 'key' must be ..., got ...", where key is
/// the whole path ("rope_scaling.factor"). A key whose value is null counts as missing.
class JsonObject {
 public:
  /// `value` must outlive this object. Throws FileError unless it is an object.
  JsonObject(const Json& value, std::string origin, std::string path = {});

  bool has(std::string_view key) const { return find(key) != nullptr; }
  /// The value, or null if the key is missing or null.
  const Json* find(std::string_view key) const;
  const Json& json() const { return *value_; }
  const std::string& origin() const { return origin_; }
  std::string path(std::string_view key) const;

  // Each getter requires the key unless it gets a fallback.
  std::int64_t integer(std::string_view key, std::int64_t least, std::int64_t most,
                       std::optional<std::int64_t> fallback = {}) const;
  /// A finite number in [least, most].
  double number(std::string_view key, double least, double most, std::optional<double> fallback = {}) const;
  bool boolean(std::string_view key, std::optional<bool> fallback = {}) const;
  std::string string(std::string_view key, std::optional<std::string> fallback = {}) const;
  JsonObject object(std::string_view key) const;
  const Json& list(std::string_view key) const;
  std::vector<std::int64_t> integers(std::string_view key, std::int64_t least, std::int64_t most) const;

  /// Throws "origin: 'key' must be EXPECTED, got VALUE".
  [[noreturn]] void fail(std::string_view key, std::string_view expected) const;

 private:
  const Json* value_;
  std::string origin_;
  std::string path_;
};

}  // namespace fathom
