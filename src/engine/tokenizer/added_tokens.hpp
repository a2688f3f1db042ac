// Tokens that are found in the text as they are written, before anything else looks at it.
#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace fathom::text {

struct AddedToken {
  std::string content;
  std::int32_t id = 0;
  bool single_word = false;  // only where no letter, digit or '_' is beside it
  bool lstrip = false;       // takes the white space on its left with it
  bool rstrip = false;       // and on its right
  bool normalized = true;    // looked for only in what the others leave
  bool special = false;      // left out by decode() on request
};

/// A set of added tokens to look for together: the leftmost first, the longest of those that start there.
class AddedTokenMatcher {
 public:
  void insert(const AddedToken& token);
  bool empty() const { return tokens_.empty(); }

  /// Gives what lies between the tokens to `text` and each token to `token`, in order.
  void split(std::string_view subject, const std::function<void(std::string_view)>& text,
             const std::function<void(std::int32_t)>& token) const;

 private:
  struct Node {
    std::vector<std::pair<char, std::int32_t>> next;  // sorted by the byte
    std::int32_t token = -1;                          // index of the token that ends here
  };
  /// The longest token that starts at `at`, or -1.
  std::int32_t longest(std::string_view subject, std::size_t at) const;

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_{1};
  std::array<bool, 256> starts_{};  // first bytes of tokens
};

/// The tokens of a file: two matchers, one after the other, as the flag `normalized` says.
class AddedTokens {
 public:
  void insert(const AddedToken& token) { (token.normalized ? second_ : first_).insert(token); }
  void split(std::string_view subject, const std::function<void(std::string_view)>& text,
             const std::function<void(std::int32_t)>& token) const;

 private:
  AddedTokenMatcher first_, second_;
};

}  // namespace fathom::text
