#include "engine/loader/safetensors.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <unordered_set>
#include <utility>

#include "core/json.hpp"
#include "fathom/core/error.hpp"

namespace fathom::safetensors {
namespace {

struct TypeRow {
  std::string_view name;
  int bits;
  std::optional<DType> dtype;
};
constexpr std::array kTypes{TypeRow{"F32", 32, DType::f32},       TypeRow{"BF16", 16, DType::bf16},
                            TypeRow{"F8_E4M3", 8, DType::f8e4m3}, TypeRow{"F16", 16, DType::f16},
                            TypeRow{"I32", 32, DType::i32},       TypeRow{"I64", 64, DType::i64},
                            TypeRow{"U8", 8, DType::u8},          TypeRow{"BOOL", 8, std::nullopt},
                            TypeRow{"I8", 8, std::nullopt},       TypeRow{"I16", 16, std::nullopt},
                            TypeRow{"U16", 16, std::nullopt},     TypeRow{"U32", 32, std::nullopt},
                            TypeRow{"U64", 64, std::nullopt},     TypeRow{"F64", 64, std::nullopt},
                            TypeRow{"F8_E5M2", 8, std::nullopt},  TypeRow{"F8_E8M0", 8, std::nullopt}};

constexpr std::uint64_t kLengthBytes = 8;
constexpr std::uint64_t kMaxHeader = 100'000'000;  // the format's own limit

// Collects entries from the header's events. Offsets stay relative to the end of the header until finish().
class HeaderReader final : public JsonEvents {
 public:
  using JsonEvents::JsonEvents;
  std::vector<Entry> entries;

  bool start_object(std::size_t) override {
    if (depth_ == 0 || (depth_ == 1 && has_key_)) return ++depth_, true;
    return unexpected("an object");
  }
  bool end_object() override {
    --depth_;
    if (depth_ == 1 && !in_metadata_) close_entry();
    if (depth_ == 1) in_metadata_ = has_key_ = false;
    return true;
  }
  bool key(string_t& name) override {
    if (depth_ == 1) {
      if (!names_.insert(name).second) refuse(fmt::format("tensor '{}' is listed twice", printable(name)));
      has_key_ = true;
      in_metadata_ = name == "__metadata__";
      seen_ = 0;
      if (!in_metadata_) entries.emplace_back().name = std::move(name);
      return true;
    }
    if (in_metadata_) {
      if (!metadata_.insert(name).second) refuse(fmt::format("__metadata__ has '{}' twice", printable(name)));
      return true;
    }
    field_ = name == "dtype" ? kDtype : name == "shape" ? kShape : name == "data_offsets" ? kOffsets : kNone;
    if (field_ == kNone) fail(fmt::format("has the unknown key '{}'", printable(name)));
    if ((seen_ & field_) != 0) fail(fmt::format("has '{}' twice", name));
    seen_ |= field_;
    return true;
  }
  bool string(string_t& text) override {
    if (in_metadata_ && depth_ == 2) return true;
    if (depth_ != 2 || field_ != kDtype) return unexpected("a string");
    const auto row =
        std::find_if(kTypes.begin(), kTypes.end(), [&](const TypeRow& r) { return r.name == text; });
    if (row == kTypes.end()) fail(fmt::format("has the unknown dtype '{}'", printable(text)));
    entries.back().type = static_cast<std::uint8_t>(row - kTypes.begin());
    return true;
  }
  bool start_array(std::size_t) override {
    if (in_metadata_ || depth_ != 2 || in_list_ || (field_ != kShape && field_ != kOffsets))
      return unexpected("a list");
    in_list_ = true;
    count_ = 0;
    return true;
  }
  bool end_array() override {
    in_list_ = false;
    if (field_ == kShape) entries.back().rank = count_;
    if (field_ == kOffsets && count_ != 2) fail(fmt::format("must have 2 data_offsets, has {}", count_));
    return true;
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (!in_list_) return unexpected("a number");
    if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
      fail(fmt::format("has the {} {}, which does not fit 63 bits", field_ == kShape ? "size" : "offset",
                       value));
    }
    const auto number = static_cast<std::int64_t>(value);
    Entry& entry = entries.back();
    if (field_ == kShape) {
      if (count_ == kMaxRank) fail(fmt::format("must have at most {} axes, has more", kMaxRank));
      entry.shape[static_cast<std::size_t>(count_)] = number;
    } else if (count_ < 2) {
      (count_ == 0 ? entry.begin : entry.end) = number;
    }
    ++count_;
    return true;
  }

 private:
  enum Field : unsigned { kNone = 0, kDtype = 1, kShape = 2, kOffsets = 4 };

  [[noreturn]] void fail(std::string_view what) const {
    refuse(fmt::format("tensor '{}' {}", printable(entries.back().name), what));
  }
  bool unexpected(std::string_view kind) const override {
    if (depth_ == 2 && !in_metadata_) {
      const auto field = field_ == kDtype ? "dtype" : field_ == kShape ? "shape" : "data_offsets";
      fail(fmt::format("must have {} as '{}', has {}",
                       field_ == kDtype ? "a string" : "a list of sizes from 0", field, kind));
    }
    refuse(fmt::format("the header must map names to objects, has {}", kind));
  }
  void close_entry() const {
    for (const auto& [field, name] :
         {std::pair{kDtype, "dtype"}, {kShape, "shape"}, {kOffsets, "data_offsets"}}) {
      if ((seen_ & field) == 0) fail(fmt::format("has no '{}'", name));
    }
  }

  int depth_ = 0;  // objects that are open
  bool has_key_ = false;
  bool in_metadata_ = false;
  bool in_list_ = false;
  int count_ = 0;
  Field field_ = kNone;
  unsigned seen_ = 0;
  std::unordered_set<std::string> names_;
  std::unordered_set<std::string> metadata_;
};

[[noreturn]] void fail(std::string_view origin, std::string_view what) {
  throw FileError(fmt::format("{}: {}", origin, what));
}

std::string shape_text(const Entry& entry) {
  return fmt::format("[{}]", fmt::join(entry.shape.begin(), entry.shape.begin() + entry.rank, ","));
}

// Bytes the shape asks for; nothing if the product overflows.
std::optional<std::int64_t> bytes_of(const Entry& entry) {
  std::int64_t count = 1;
  bool overflow = false;
  for (int axis = 0; axis < entry.rank; ++axis) {
    overflow |= __builtin_mul_overflow(count, entry.shape[static_cast<std::size_t>(axis)], &count);
  }
  overflow |= __builtin_mul_overflow(count, kTypes[entry.type].bits, &count);
  if (overflow) return std::nullopt;
  return count / 8;
}

// Offsets of one entry against the file and against the shape.
void check_entry(const Entry& entry, std::int64_t data_bytes, std::string_view origin) {
  const auto name = printable(entry.name);
  const auto bytes = bytes_of(entry);
  if (!bytes)
    fail(origin, fmt::format("tensor '{}': the size of shape {} overflows", name, shape_text(entry)));
  if (entry.begin > entry.end) {
    fail(origin,
         fmt::format("tensor '{}' ends at offset {}, before its begin {}", name, entry.end, entry.begin));
  }
  if (entry.end > data_bytes) {
    fail(origin,
         fmt::format(
             "tensor '{}' ends at offset {}, but the file has only {} bytes of tensors (is it truncated?)",
             name, entry.end, data_bytes));
  }
  if (entry.end - entry.begin != *bytes) {
    fail(origin, fmt::format("tensor '{}' of {} {} must have {} bytes, has {}", name, entry.type_name(),
                             shape_text(entry), *bytes, entry.end - entry.begin));
  }
}

// Every byte belongs to one tensor.
void check_cover(const std::vector<Entry>& entries, std::int64_t data_bytes, std::string_view origin) {
  std::vector<const Entry*> order;
  order.reserve(entries.size());
  for (const Entry& entry : entries) order.push_back(&entry);
  std::sort(order.begin(), order.end(), [](const Entry* a, const Entry* b) {
    return std::pair(a->begin, a->end) < std::pair(b->begin, b->end);
  });
  std::int64_t at = 0;
  const Entry* last = nullptr;
  for (const Entry* entry : order) {
    if (entry->begin < at) {
      fail(origin,
           fmt::format("tensors '{}' and '{}' overlap", printable(last->name), printable(entry->name)));
    }
    if (entry->begin > at) {
      fail(origin, fmt::format("{} bytes before tensor '{}' belong to no tensor", entry->begin - at,
                               printable(entry->name)));
    }
    at = entry->end;
    last = entry;
  }
  if (at != data_bytes) fail(origin, fmt::format("the last {} bytes belong to no tensor", data_bytes - at));
}

}  // namespace

std::string_view Entry::type_name() const { return kTypes[type].name; }
std::optional<DType> Entry::dtype() const { return kTypes[type].dtype; }

std::string_view type_name(DType dtype) {
  return std::find_if(kTypes.begin(), kTypes.end(), [&](const TypeRow& row) { return row.dtype == dtype; })
      ->name;
}

std::vector<Entry> parse_header(std::span<const std::byte> file, std::string_view origin) {
  static_assert(std::endian::native == std::endian::little);
  if (file.size() < kLengthBytes) {
    fail(origin,
         fmt::format("is no safetensors file: it has {} bytes, and the length of the header alone takes 8",
                     file.size()));
  }
  std::uint64_t length = 0;
  std::memcpy(&length, file.data(), sizeof length);
  if (length > file.size() - kLengthBytes) {
    fail(origin,
         fmt::format("the header must end inside of the file, which has {} bytes; its length is given as {}",
                     file.size(), length));
  }
  if (length > kMaxHeader)
    fail(origin, fmt::format("the header must have at most {} bytes, has {}", kMaxHeader, length));
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + kLengthBytes, length);
  if (text.empty() || text.front() != '{')
    fail(origin, "is no safetensors file: its header does not begin with '{'");

  HeaderReader reader(origin);
  parse_json_events(text, reader);
  const auto data_begin = static_cast<std::int64_t>(kLengthBytes + length);
  const std::int64_t data_bytes = static_cast<std::int64_t>(file.size()) - data_begin;
  for (const Entry& entry : reader.entries) check_entry(entry, data_bytes, origin);
  check_cover(reader.entries, data_bytes, origin);
  for (Entry& entry : reader.entries) {
    entry.begin += data_begin;
    entry.end += data_begin;
  }
  return std::move(reader.entries);
}

}  // namespace fathom::safetensors
