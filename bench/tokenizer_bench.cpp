// Load time and speed of a tokenizer: tokenizer_bench DIR TEXT_FILE. Prints medians of seven runs.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <exception>
#include <fstream>
#include <functional>
#include <sstream>

#include "fathom/engine/tokenizer.hpp"

namespace {

double seconds(const std::function<void()>& work) {
  std::array<double, 7> times{};
  for (double& time : times) {
    const auto begin = std::chrono::steady_clock::now();
    work();
    time = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
  std::nth_element(times.begin(), times.begin() + 3, times.end());
  return times[3];
}

void measure(const char* name, const fathom::Tokenizer& tokenizer, const std::string& text) {
  std::vector<std::int32_t> tokens;
  std::string decoded;
  const double encoding = seconds([&] { tokens = tokenizer.encode(text, false); });
  const double decoding = seconds([&] { decoded = tokenizer.decode(tokens, false); });
  const double megabytes = static_cast<double>(text.size()) / 1e6;
  std::printf("%-28s %6.2f MB %8zu tokens  encode %7.1f ms %6.1f MB/s  decode %6.0f MB/s%s\n", name,
              megabytes, tokens.size(), encoding * 1e3, megabytes / encoding, megabytes / decoding,
              decoded == text ? "" : "  (does not come back)");
}

std::string repeated(const std::string& text, std::size_t bytes) {
  std::string out;
  while (out.size() < bytes) out += text;
  return out;
}

}  // namespace

int main(int count, char** arguments) try {
  if (count != 3) {
    std::fprintf(stderr, "usage: tokenizer_bench DIR TEXT_FILE\n");
    return 2;
  }
  const auto load = [&] { return fathom::Tokenizer::load(arguments[1]); };
  std::printf("load %.1f ms\n", seconds([&] { load(); }) * 1e3);
  const fathom::Tokenizer tokenizer = load();
  std::ifstream stream(arguments[2], std::ios::binary);
  const std::string text = (std::ostringstream() << stream.rdbuf()).str();
  measure("the file", tokenizer, text);
  measure("the file's first 1000 bytes", tokenizer, text.substr(0, 1000));
  constexpr std::size_t kMegabyte = 1 << 20;
  measure("spaces", tokenizer, repeated(" ", kMegabyte));
  measure("one letter", tokenizer, repeated("a", kMegabyte));
  measure("line breaks", tokenizer, repeated("\n", kMegabyte));
  measure("one ideograph", tokenizer, repeated("中", kMegabyte));
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "tokenizer_bench: %s\n", error.what());
  return 2;
}
