#include "first_call.hpp"

#include <fmt/format.h>
#include <stdlib.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <optional>
#include <string>

#include "bench.hpp"
#include "fathom/core/error.hpp"
#include "jit/pack.hpp"

namespace fathom::cli {
namespace {

double seconds_of(const auto& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// An empty folder that goes when this does.
class Scratch {
 public:
  Scratch() {
    std::string name = (std::filesystem::temp_directory_path() / "fathom-first-call-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw FileError(name + ": cannot be made");
    path_ = name;
  }
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

struct FirstCall {
  double first = 0;  // seconds
  double warm = 0;
};

// In a context of its own, which has seen no kernel.
FirstCall call(const std::string& problem, const ContextOptions& options) {
  const fathom::Context device(options);
  const cuda::Stream stream(device);
  const fathom::Context context = device.on_stream(stream.handle());
  const BenchCase work = make_bench(problem, context);
  cuda::synchronize(context);
  const auto once = [&] {
    work.run(0);
    cuda::synchronize(context);
  };
  FirstCall result;
  result.first = seconds_of(once);
  result.warm = seconds_of(once);
  return result;
}

}  // namespace

int first_calls(const std::vector<ListedProblem>& problems, const ContextOptions& options) {
  std::optional<fathom::Context> open;  // the device stays open between the calls
  const double opening = seconds_of([&] {
    open.emplace(options);
    const cuda::DeviceBuffer memory(*open, 1);
  });
  fmt::print("opening the device {:.3f} s\n", opening);
  ContextOptions no_pack = options;
  no_pack.kernel_pack.clear();
  const bool pack_beside = jit::find_pack({}).has_value();
  const bool pack = jit::find_pack(options.kernel_pack).has_value();
  if (pack_beside) fmt::print("a pack beside the program serves every call: nothing is compiled\n");
  std::size_t width = 0;
  for (const ListedProblem& problem : problems) width = std::max(width, problem.text.size());
  fmt::print("{:<{}} {:>12} {:>12} {:>12} {:>12}\n", "seconds to the first result", width, "empty cache",
             "from cache", "from pack", "warm");
  int failed = 0;
  for (const ListedProblem& problem : problems) {
    try {
      const Scratch cache;
      const Scratch unused;
      no_pack.cache_dir = cache.path();
      ContextOptions with_pack = options;
      with_pack.cache_dir = unused.path();
      std::string columns;
      FirstCall last;
      const auto column = [&](bool measured, const ContextOptions& how) {
        if (measured) last = call(problem.canonical, how);
        columns += measured ? fmt::format(" {:>12.4f}", last.first) : fmt::format(" {:>12}", "-");
      };
      column(!pack_beside, no_pack);
      column(!pack_beside, no_pack);
      column(pack, with_pack);
      fmt::print("{:<{}}{} {:>12.6f}\n", problem.text, width, columns, last.warm);
      std::fflush(stdout);
    } catch (const Error& error) {
      ++failed;
      fmt::print("{:<{}} error: {}\n", problem.text, width, error.what());
    }
  }
  return failed == 0 ? 0 : 2;
}

}  // namespace fathom::cli
