// Token contents by id and ids by content, in two flat arrays: vocabularies are large and loaded at every
// start.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fathom::text {

class TokenTable {
 public:
  /// The id of a content. No two ids share one content.
  std::optional<std::int32_t> find(std::string_view content) const;
  /// True if a token has this id.
  bool has(std::int32_t id) const { return id >= 0 && id < size() && range(id).begin != kNone; }
  /// Empty if no token has it.
  std::string_view content(std::int32_t id) const {
    return has(id) ? std::string_view(text_).substr(range(id).begin, range(id).size) : std::string_view();
  }
  /// One more than the largest id.
  std::int32_t size() const { return static_cast<std::int32_t>(ranges_.size()); }
  bool empty() const { return used_ == 0; }
  /// False, and nothing changes, if the content has an id already. The id must be free and not negative.
  bool insert(std::string_view content, std::int32_t id);

 private:
  static constexpr std::uint32_t kNone = ~std::uint32_t{0};
  struct Range {  // in text_
    std::uint32_t begin = kNone;
    std::uint32_t size = 0;
  };
  const Range& range(std::int32_t id) const { return ranges_[static_cast<std::size_t>(id)]; }
  struct Slot {
    std::uint32_t hash = 0;  // tells most other contents apart without reading them
    std::int32_t id = -1;    // -1: free
  };
  /// Where the content is, or where it would be inserted.
  std::size_t slot(std::string_view content, std::uint32_t hash) const;
  void grow();

  std::string text_;
  std::vector<Range> ranges_;  // by id
  std::vector<Slot> slots_;    // open addressing over the contents
  std::size_t used_ = 0;
};

}  // namespace fathom::text
