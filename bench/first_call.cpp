#include "first_call.hpp"

#include <stdlib.h>

#include <chrono>
#include <filesystem>

#include "bench.hpp"
#include "fathom/core/error.hpp"
#include "jit/pack.hpp"

namespace fathom {
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

// In a context of its own, which has seen no kernel. Returns the first call's seconds.
double call(const std::string& problem, const ContextOptions& options, double& warm) {
  const Context device(options);
  const cuda::Stream stream(device);
  const Context context = device.on_stream(stream.handle());
  const BenchCase work = make_bench(problem, context);
  cuda::synchronize(context);
  const auto once = [&] {
    work.run(0);
    cuda::synchronize(context);
  };
  const double first = seconds_of(once);
  warm = seconds_of(once);
  return first;
}

}  // namespace

double open_device_for_bench(const ContextOptions& options, std::optional<Context>& open) {
  return seconds_of([&] {
    open.emplace(options);
    const cuda::DeviceBuffer memory(*open, 1);
  });
}

FirstCall measure_first_call(const std::string& problem, const ContextOptions& options) {
  const Scratch filled;
  const Scratch empty;
  FirstCall result;
  if (!jit::find_pack({}).has_value()) {
    ContextOptions no_pack = options;
    no_pack.kernel_pack.clear();
    no_pack.cache_dir = filled.path();
    result.empty_cache = call(problem, no_pack, result.warm);
    result.from_cache = call(problem, no_pack, result.warm);
  }
  if (jit::find_pack(options.kernel_pack).has_value()) {
    ContextOptions with_pack = options;
    with_pack.cache_dir = empty.path();
    result.from_pack = call(problem, with_pack, result.warm);
  }
  return result;
}

}  // namespace fathom
