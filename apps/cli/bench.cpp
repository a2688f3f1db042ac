// fathom bench: times problems through Google Benchmark and sets them against what the machine can do.
#include "bench.hpp"

#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <ctime>
#include <exception>
#include <memory>
#include <optional>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

#include "bench_device.hpp"
#include "checks.hpp"
#include "commands.hpp"
#include "core/file.hpp"
#include "device_timer.hpp"
#include "fathom/core/error.hpp"
#include "message.hpp"
#include "model_arguments.hpp"
#include "problem_list.hpp"
#include "roof.hpp"

namespace fathom::cli {
namespace {

struct BenchArguments {
  std::string what;
  std::string json;
  std::string filter;
  std::string device;       // empty: as FATHOM_DEVICE says
  std::string kernel_pack;  // empty: as FATHOM_KERNEL_PACK says
  int repetitions = 0;      // 0: 7 on the host, 8 on a device
  DeviceBenchOptions on_device;
  bool hot = false;
  bool list = false;
  ThreadArgument threads;
};

void keep_matching(std::vector<ListedProblem>& problems, const std::string& filter) {
  try {
    const std::regex pattern(filter);
    std::erase_if(problems, [&](const ListedProblem& problem) {
      return !std::regex_search(problem.canonical, pattern) && !std::regex_search(problem.text, pattern);
    });
  } catch (const std::regex_error&) {
    throw InvalidArgument("bench: --filter must be a regular expression, got '" + filter + "'");
  }
  if (problems.empty()) throw InvalidArgument("bench: no problem matches --filter '" + filter + "'");
}

// Google Benchmark calls a benchmark several times; the tensors of the last problem are kept between calls.
class CaseCache {
 public:
  explicit CaseCache(const Context& context) : context_(context) {}
  const BenchCase& get(const std::string& problem) {
    if (!case_ || case_->problem != problem) {
      case_.reset();  // before the next one is made: both may be large
      case_ = make_bench(problem, context_);
    }
    return *case_;
  }

 private:
  const Context& context_;
  std::optional<BenchCase> case_;
};

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// A line per problem: the median of the repetitions, and their median distance from it. Keeps Google
// Benchmark's JSON beside, for a file that is written once all is over: neither an interrupt nor a full disk
// leaves a part of it.
class Table : public benchmark::BenchmarkReporter {
 public:
  explicit Table(const Roof& roof) : roof_(roof) { json_.SetOutputStream(&json_text_); }

  std::string json() const { return json_text_.str(); }

  void Finalize() override { json_.Finalize(); }

  bool ReportContext(const Context& context) override {
    json_.ReportContext(context);
    fmt::print("{:>10} {:>8} {:>9} {:>10} {:>15}  {}\n", "median", "spread", "GB/s", "GFLOP/s", "of roof",
               "problem");
    std::fflush(stdout);
    return true;
  }

  void ReportRuns(const std::vector<Run>& runs) override {
    json_.ReportRuns(runs);
    std::vector<double> seconds;
    for (const Run& run : runs) {
      if (run.run_type != Run::RT_Iteration || run.iterations == 0) continue;
      seconds.push_back(run.real_accumulated_time / static_cast<double>(run.iterations));
    }
    if (seconds.empty()) return;  // it failed; the error is reported once all is over
    const double time = median(seconds);
    for (double& value : seconds) value = std::abs(value - time);
    const auto counter = [&](const char* name) {
      const auto found = runs.front().counters.find(name);
      return found == runs.front().counters.end() ? 0.0 : found->second.value;
    };
    const double bytes = counter("bytes") / time;
    const double flops = counter("flops") / time;
    const double of_read = bytes / roof_.read_bytes_per_second;
    const double of_dot = flops / roof_.flops_per_second;
    fmt::print("{:>10} {:>7.1f}% {:>9.2f} {:>10.2f} {:>15}  {}\n", duration(time),
               100 * median(seconds) / time, bytes * 1e-9, flops * 1e-9,
               fmt::format("{:.0f}% {}", 100 * std::max(of_read, of_dot),
                           of_read >= of_dot ? "read" : roof_.flops_unit),
               runs.front().run_name.function_name);
    std::fflush(stdout);
  }

 private:
  static std::string duration(double seconds) {
    if (seconds < 1e-3) return fmt::format("{:.2f} us", seconds * 1e6);
    if (seconds < 1) return fmt::format("{:.3f} ms", seconds * 1e3);
    return fmt::format("{:.3f} s", seconds);
  }
  Roof roof_;
  std::ostringstream json_text_;
  benchmark::JSONReporter json_;
};

std::string today() {
  const std::time_t now = std::time(nullptr);
  char text[16];
  std::strftime(text, sizeof text, "%Y-%m-%d", std::gmtime(&now));
  return text;
}

int bench_host(const BenchArguments& arguments, const std::vector<ListedProblem>& problems,
               const fathom::Context& context) {
  const Roof roof = measure_roof(context);
  message("{} threads, {}: reads {:.1f} GB/s, {} {:.0f} GFLOP/s\n", context.threads(), cpu_target(),
          roof.read_bytes_per_second * 1e-9, roof.flops_unit, roof.flops_per_second * 1e-9);

  CaseCache cases(context);
  std::exception_ptr error;
  for (const ListedProblem& listed : problems) {
    const auto body = [&cases, &error, problem = listed.canonical](benchmark::State& state) {
      try {
        const BenchCase& work = cases.get(problem);
        work.run(0);  // touches the memory and starts the threads
        std::int64_t count = 0;
        for (auto _ : state) work.run(++count);
        state.counters["bytes"] = work.bytes;
        state.counters["flops"] = work.flops;
      } catch (...) {
        if (!error) error = std::current_exception();
        state.SkipWithError("failed");
      }
    };
    benchmark::RegisterBenchmark(listed.canonical.c_str(), body)
        ->UseRealTime()
        ->MinTime(0.1)
        ->Repetitions(arguments.repetitions > 0 ? arguments.repetitions : 7)
        ->ReportAggregatesOnly(false);
  }
  benchmark::AddCustomContext("fathom", std::string(version()));
  benchmark::AddCustomContext("cpu_target", std::string(cpu_target()));
  benchmark::AddCustomContext("threads", std::to_string(context.threads()));
  benchmark::AddCustomContext("read_bytes_per_second", fmt::format("{:.4g}", roof.read_bytes_per_second));
  benchmark::AddCustomContext("flops_per_second", fmt::format("{:.4g}", roof.flops_per_second));
  benchmark::AddCustomContext("flops_unit", std::string(roof.flops_unit));

  char name[] = "fathom bench";
  char* words[] = {name};
  int count = 1;
  benchmark::Initialize(&count, words);
  Table table(roof);
  benchmark::RunSpecifiedBenchmarks(&table);
  benchmark::Shutdown();
  if (error) std::rethrow_exception(error);
  if (!arguments.json.empty()) write_file(arguments.json, table.json());
  return 0;
}

int bench(const BenchArguments& arguments) {
  std::vector<ListedProblem> problems = read_problems(arguments.what);
  if (!arguments.filter.empty()) keep_matching(problems, arguments.filter);

  if (arguments.list) {
    for (const ListedProblem& problem : problems) fmt::print("{}\n", problem.canonical);
    return 0;
  }

  ContextOptions options = arguments.threads.options();
  if (!arguments.device.empty()) options.device = arguments.device;
  DeviceBenchOptions device = arguments.on_device;
  device.json = arguments.json;
  device.hot = arguments.hot;
  if (!arguments.kernel_pack.empty()) options.kernel_pack = arguments.kernel_pack;
  if (options.device == "cpu") {
    for (const auto& [name, given] : {std::pair("--check", device.check),
                                      {"--first-call", device.first_call},
                                      {"--kernel-pack", !arguments.kernel_pack.empty()},
                                      {"--svg", !device.svg.empty()},
                                      {"--markdown", !device.markdown.empty()}}) {
      if (given) throw InvalidArgument(fmt::format("bench: {} needs --device cuda, the device is cpu", name));
    }
  } else if (arguments.repetitions > 0 && arguments.repetitions < DeviceTimerOptions{}.runs) {
    throw InvalidArgument(fmt::format("bench: --repetitions must be at least {} on a device, got {}",
                                      DeviceTimerOptions{}.runs, arguments.repetitions));
  }
  if (device.first_call) {
    for (const auto& [name, given] : {std::pair("--check", device.check),
                                      {"--json", !device.json.empty()},
                                      {"--svg", !device.svg.empty()},
                                      {"--markdown", !device.markdown.empty()}}) {
      if (given) throw InvalidArgument(fmt::format("bench: {} does not go with --first-call", name));
    }
  }
  if (device.hot && !device.peers.empty())
    throw InvalidArgument("bench: --peers does not go with --hot: the peers' caches were emptied");
  for (const std::string& file : {device.json, device.svg, device.markdown}) {
    if (!file.empty()) const AtomicFile writable(file);  // fails now rather than after the work
  }
  if (arguments.hot) use_hot_weights();
  if (options.device == "cpu") return bench_host(arguments, problems, fathom::Context(options));
  if (arguments.repetitions > 0) device.runs = arguments.repetitions;
  if (device.date.empty()) device.date = today();
  return bench_device(problems, device, options);
}

}  // namespace

void add_bench(CLI::App& program, Action& action) {
  CLI::App* command =
      program.add_subcommand("bench", "Time ops on problems written as op:key=value,key=value");
  const auto arguments = std::make_shared<BenchArguments>();
  command
      ->add_option("problem", arguments->what, "A problem, or a file with one a line (bench/problems/*.txt)")
      ->type_name("PROBLEM|FILE")
      ->required();
  command
      ->add_option("--device", arguments->device,
                   "cpu, cuda or cuda:N: where the tensors are (default: FATHOM_DEVICE)")
      ->type_name("DEVICE");
  command->add_option("--json", arguments->json, "Also write the figures to this file as JSON")
      ->check(not_empty())
      ->type_name("OUT");
  command
      ->add_option("--filter", arguments->filter,
                   "Only problems that contain a match of this regular expression")
      ->type_name("REGEX");
  command
      ->add_option("--repetitions", arguments->repetitions,
                   "Timings per problem (default: 7; on a device 8, which is also the least)")
      ->check(whole_number(1, 1000))
      ->type_name("N");
  command->add_flag("--hot", arguments->hot,
                    "Let weights stay in the caches; by default they come from memory");
  command->add_flag("--list", arguments->list,
                    "Print the problems, each with all of its keys, and time nothing");
  add_device_options(*command, arguments->on_device);
  add_kernel_pack(*command, arguments->kernel_pack)->group("On a device");
  arguments->threads.add_to(*command);
  command->footer(
      "On the host: spread is the median distance of the timings from their median. `of roof` sets the "
      "bytes\n"
      "and flops that one run needs against the read bandwidth and the arithmetic measured before the first\n"
      "problem, and shows the nearer of the two. --json is Google Benchmark's.\n"
      "On a device: time is that of the kernels alone, by CUPTI, with a memset of --flush-bytes before "
      "every\n"
      "run; `events` instead of `cupti` marks figures between two events, which are compared with nothing.\n"
      "`floor` is the time that bytes and flops need at least, through the time taken. cuBLASLt runs the "
      "same\n"
      "product beside. `peer` is the fastest library recorded in bench/peers for such a device.\n"
      "Keys that a problem leaves out have the defaults of `fathom ops`.");
  command->callback([&action, arguments] { action = [arguments] { return bench(*arguments); }; });
}

}  // namespace fathom::cli
