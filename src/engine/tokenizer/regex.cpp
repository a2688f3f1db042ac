#include "engine/tokenizer/regex.hpp"

#include <fmt/format.h>

#include <new>

#include "core/json.hpp"
#include "engine/tokenizer/utf8.hpp"
#include "fathom/core/error.hpp"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace fathom::text {
namespace {

// Enough for a group that repeats a million times; the memory is touched only where it is used.
constexpr std::size_t kJitStackBytes = std::size_t{256} << 20;

template <auto Free>
struct Freer {
  template <class T>
  void operator()(T* object) const {
    Free(object);
  }
};
using CompileContext = std::unique_ptr<pcre2_compile_context, Freer<pcre2_compile_context_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Freer<pcre2_match_context_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, Freer<pcre2_match_data_free>>;
using JitStack = std::unique_ptr<pcre2_jit_stack, Freer<pcre2_jit_stack_free>>;
using CodePointer = std::unique_ptr<pcre2_code, Freer<pcre2_code_free>>;

std::string message(int code) {
  PCRE2_UCHAR buffer[256];
  pcre2_get_error_message(code, buffer, sizeof(buffer));
  return reinterpret_cast<const char*>(buffer);
}

PCRE2_SPTR units(std::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

template <class T>
T allocated(T pointer) {
  if (pointer == nullptr) throw std::bad_alloc();
  return pointer;
}

}  // namespace

struct Regex::Code {
  CodePointer code;
  std::string pattern;

  Code(std::string_view source, std::string_view shown, std::uint32_t options, bool jit) : pattern(shown) {
    const CompileContext context(allocated(pcre2_compile_context_create(nullptr)));
    pcre2_set_newline(context.get(),
                      PCRE2_NEWLINE_LF);  // what '.' does not match, whatever the system's build says
    int error = 0;
    std::size_t offset = 0;
    code.reset(
        pcre2_compile(units(source), source.size(), options | PCRE2_UTF, &error, &offset, context.get()));
    if (code == nullptr) throw PatternError(message(error));
    // Without JIT (a platform or a build that lacks it) the interpreter gives the same matches, slower.
    if (jit) pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);
  }
};

Regex Regex::compile(std::string_view pattern) {
  const Pcre2Pattern ours = to_pcre2(pattern);
  return Regex(
      std::make_unique<const Code>(ours.text, pattern, PCRE2_UCP | PCRE2_MULTILINE, !ours.needs_interpreter));
}

Regex Regex::literal(std::string_view text) {
  return Regex(std::make_unique<const Code>(text, text, PCRE2_LITERAL, true));
}

Regex::Regex(std::unique_ptr<const Code> code) : code_(std::move(code)) {}
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;
Regex::~Regex() = default;

struct SearchScratch::State {
  MatchData data{allocated(pcre2_match_data_create(1, nullptr))};
  MatchContext context;
  JitStack stack;

  void enlarge_stack() {
    context.reset(allocated(pcre2_match_context_create(nullptr)));
    stack.reset(allocated(pcre2_jit_stack_create(std::size_t{1} << 20, kJitStackBytes, nullptr)));
    pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
  }
};
SearchScratch::SearchScratch() : state_(std::make_unique<State>()) {}
SearchScratch::SearchScratch(SearchScratch&&) noexcept = default;
SearchScratch::~SearchScratch() = default;

void Regex::split(std::string_view subject, SearchScratch& scratch, std::vector<Piece>& pieces) const {
  SearchScratch::State& state = *scratch.state_;
  const PCRE2_SIZE* place = pcre2_get_ovector_pointer(state.data.get());
  std::size_t at = 0;        // where the search goes on
  std::size_t done = 0;      // end of what is listed
  bool after_match = false;  // a match ends at `done`
  while (at <= subject.size()) {
    // The text is valid UTF-8; checking it again for each match would make the whole quadratic.
    const int found = pcre2_match(code_->code.get(), units(subject), subject.size(), at, PCRE2_NO_UTF_CHECK,
                                  state.data.get(), state.context.get());
    if (found == PCRE2_ERROR_NOMATCH) break;
    if (found == PCRE2_ERROR_JIT_STACKLIMIT && state.stack == nullptr) {
      state.enlarge_stack();
      continue;
    }
    if (found < 0) {
      throw InvalidArgument(fmt::format("tokenizer: the pattern '{}' gives up at byte {} of {}: {}",
                                        printable(code_->pattern), at, subject.size(), message(found)));
    }
    const std::size_t begin = place[0], end = place[1];
    if (begin == end && after_match &&
        begin == done) {  // nothing, where a match has just ended: go on behind it
      if (at == subject.size()) break;
      at += utf8_step(subject, at).size;
      continue;
    }
    if (begin > done) pieces.push_back({done, begin, false});
    pieces.push_back({begin, end, true});
    after_match = true;
    at = done = end;
  }
  if (done < subject.size()) pieces.push_back({done, subject.size(), false});
}

}  // namespace fathom::text
