// fathom bench on a device: kernel times by CUPTI beside cuBLASLt's and recorded ones of other libraries.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "fathom/core/context.hpp"
#include "problem_list.hpp"

namespace CLI {
class App;
}

namespace fathom::cli {

struct DeviceBenchOptions {
  std::string json;
  std::string svg;
  std::string markdown;
  std::string commit;
  std::string date;
  std::string peers;  // a file; empty: the one that is built in
  std::int64_t flush_bytes = 8'000'000'000;
  int runs = 8;
  bool hot = false;
  bool check = false;
  bool no_control = false;
  bool first_call = false;
  bool graph = false;
};

void add_device_options(CLI::App& command, DeviceBenchOptions& options);

/// Prints the table and writes the files. Returns the exit code: 2 if a problem could not run, or --check
/// finds a result that is not finite.
int bench_device(const std::vector<ListedProblem>& problems, const DeviceBenchOptions& options,
                 const ContextOptions& context_options);

}  // namespace fathom::cli
