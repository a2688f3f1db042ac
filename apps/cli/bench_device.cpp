#include "bench_device.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <sstream>

#include "checks.hpp"
#include "commit.hpp"
#include "core/file.hpp"
#include "device_bench.hpp"
#include "fathom/core/error.hpp"
#include "fathom/cuda/probe.hpp"
#include "first_call.hpp"
#include "message.hpp"

namespace fathom::cli {
namespace {

// Of the driver's version: without the name of who built it.
std::string first_line(const std::string& file) {
  std::ifstream stream(file);
  std::string line;
  std::getline(stream, line);
  return line.substr(0, line.find("  ("));
}

Peers load_peers(const std::string& file) {
  if (file.empty()) return Peers::built_in();
  std::ifstream stream(file);
  std::stringstream text;
  text << stream.rdbuf();
  if (!stream) throw FileError(file + ": cannot be read");
  return {text.str(), file};
}

int first_calls(const std::vector<ListedProblem>& problems, const ContextOptions& options) {
  std::optional<fathom::Context> open;  // the device stays open between the calls
  fmt::print("opening the device {:.3f} s\n", open_device_for_bench(options, open));
  constexpr std::string_view kTitle = "seconds to the first result";
  std::size_t width = kTitle.size();
  for (const ListedProblem& problem : problems) width = std::max(width, problem.text.size());
  fmt::print("{:<{}} {:>11} {:>11} {:>11} {:>11}\n", kTitle, width, "empty cache", "from cache", "from pack",
             "warm");
  int failed = 0;
  for (const ListedProblem& problem : problems) {
    try {
      const FirstCall call = measure_first_call(problem.canonical, options);
      fmt::print("{:<{}}", problem.text, width);
      for (const std::optional<double>& seconds : {call.empty_cache, call.from_cache, call.from_pack}) {
        fmt::print(" {:>11}", seconds ? fmt::format("{:.4f}", *seconds) : "-");
      }
      fmt::print(" {:>11.6f}\n", call.warm);
    } catch (const Error& error) {
      ++failed;
      fmt::print("{:<{}} error: {}\n", problem.text, width, error.what());
    }
    std::fflush(stdout);
  }
  return failed == 0 ? 0 : 2;
}

}  // namespace

void add_device_options(CLI::App& command, DeviceBenchOptions& options) {
  const auto group = [&](CLI::Option* option) { return option->group("On a device"); };
  group(command.add_option("--svg", options.svg, "Also draw our times through the peers' to this file"))
      ->check(not_empty())
      ->type_name("OUT");
  group(command.add_option("--markdown", options.markdown, "Also write the table to this file as Markdown"))
      ->check(not_empty())
      ->type_name("OUT");
  group(command.add_option("--flush-bytes", options.flush_bytes, "Bytes of the memset before every run"))
      ->check(whole_number(1'000'000'000, 64'000'000'000))
      ->capture_default_str()
      ->type_name("N");
  group(command.add_flag("--check", options.check,
                         "Compare matrix products with double precision, on a sample of the output"));
  group(command.add_flag("--graph", options.graph,
                         "Also time every problem as one CUDA graph, and list its kernels"));
  group(command.add_flag("--no-control", options.no_control, "Do not run cuBLASLt beside"));
  group(command.add_option("--peers", options.peers, "Another file of the form of bench/peers/h200.json"))
      ->check(not_empty())
      ->type_name("FILE");
  group(command.add_option("--commit", options.commit,
                           "To be noted in the files (default: the one the program was built from)"))
      ->type_name("HASH");
  group(command.add_flag("--first-call", options.first_call,
                         "Instead, the time to the first result: compiled, from the cache, from a pack"));
}

int bench_device(const std::vector<ListedProblem>& problems, const DeviceBenchOptions& options,
                 const ContextOptions& context_options) {
  if (options.first_call) return first_calls(problems, context_options);
  const Peers peers = load_peers(options.peers);
  const fathom::Context device(context_options);
  const cuda::Stream stream(device);
  const fathom::Context context = device.on_stream(stream.handle());

  BenchReport report;
  report.device = describe_device(context);
  report.driver = probe_cuda_driver().detail;
  if (const std::string version = first_line("/proc/driver/nvidia/version"); !version.empty())
    report.driver += "; " + version;
  report.nvrtc = probe_nvrtc().detail;
  report.date = options.date;
  report.commit = options.commit.empty() ? built_from_commit() : options.commit;
  report.host_costs = host_costs(problems, context, !options.no_control);

  const DeviceTimerOptions timing{.flush_bytes = options.hot ? 0 : options.flush_bytes, .runs = options.runs};
  std::vector<Timing> graphs(problems.size());
  if (options.graph) graphs = graph_timings(problems, context, timing);

  const char* path = std::getenv("FATHOM_CUPTI");
  const cuda::CuptiProbe cupti = cuda::find_cupti(path == nullptr ? "" : path);
  DeviceTimer timer(context, cupti.library, cupti.library == nullptr ? cupti.detail : "", timing);
  report.method = fmt::format(
      "{}, mean and median of {} runs after {} for warming up, random data, {}",
      timer.reason().empty()
          ? fmt::format("Kernel time from CUPTI ({}), summed over the kernels of a run", cupti.detail)
          : fmt::format("Time between two events, for want of CUPTI ({})", timer.reason()),
      options.runs, DeviceTimerOptions{}.warm_up,
      options.hot ? "caches left as they are"
                  : fmt::format("a memset of {:.3g} GB before every run",
                                static_cast<double>(options.flush_bytes) * 1e-9));
  DeviceBench bench(context, timer, !options.no_control, options.check);
  report.control = bench.control();
  message("{}; driver {}; NVRTC {}\n{}\ncuBLASLt: {}\n", report.device, report.driver, report.nvrtc,
          report.method, report.control);

  std::size_t width = 0;
  for (const ListedProblem& problem : problems) width = std::max(width, problem.text.size());
  fmt::print("{}", table_head(static_cast<int>(width)));
  for (std::size_t i = 0; i < problems.size(); ++i) {
    report.rows.push_back(bench.measure(problems[i], graphs[i]));
    const BenchRow& row = report.rows.back();
    fmt::print("{}{}", table_row(row, compare(row, peers, report.device), static_cast<int>(width)),
               graph_lines(row));
    std::fflush(stdout);
  }
  fmt::print("{}", table_end(report, peers));
  if (!options.json.empty()) write_file(options.json, report_json(report, peers));
  if (!options.markdown.empty()) write_file(options.markdown, report_markdown(report, peers));
  if (!options.svg.empty()) write_file(options.svg, report_svg(report, peers));
  const std::vector<std::string> failures = report_failures(report);
  for (const std::string& line : failures) message("fathom: {}\n", line);
  return failures.empty() ? 0 : 2;
}

}  // namespace fathom::cli
