// fathom bench: times problems through Google Benchmark and sets them against what the machine can do.
#include "bench.hpp"

#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <exception>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <regex>
#include <string>
#include <vector>

#include "checks.hpp"
#include "commands.hpp"
#include "core/file.hpp"
#include "fathom/core/error.hpp"
#include "fathom/core/op_info.hpp"
#include "model_arguments.hpp"
#include "roof.hpp"

namespace fathom::cli {
namespace {

struct BenchArguments {
  std::string what;
  std::string json;
  std::string filter;
  int repetitions = 7;
  bool hot = false;
  bool list = false;
  ThreadArgument threads;
};

std::string canonical(const std::string& text) {
  const std::string_view name = std::string_view(text).substr(0, text.find(':'));
  std::string known;
  for (const OpInfo* op : all_ops()) {
    if (op->name == name) return op->canonical(text);
    known += (known.empty() ? "" : ", ") + std::string(op->name);
  }
  throw InvalidArgument(
      fmt::format("bench: '{}' is no file, and no op is named '{}'; there are {}", text, name, known));
}

// One problem string, or a file with one a line; '#' starts a comment.
std::vector<std::string> read_problems(const std::string& what) {
  if (!std::filesystem::is_regular_file(what)) return {canonical(what)};
  std::ifstream file(what);
  if (!file) throw FileError(what + ": cannot be read");
  std::vector<std::string> problems;
  int number = 0;
  for (std::string line; std::getline(file, line);) {
    ++number;
    line.resize(std::min(line.size(), line.find('#')));
    std::erase_if(line, [](unsigned char c) { return std::isspace(c) != 0; });
    if (line.empty()) continue;
    try {
      problems.push_back(canonical(line));
    } catch (const InvalidArgument& error) {
      throw FileError(fmt::format("{}:{}: {}", what, number, error.what()));
    }
  }
  return problems;
}

void keep_matching(std::vector<std::string>& problems, const std::string& filter) {
  try {
    const std::regex pattern(filter);
    std::erase_if(problems, [&](const std::string& problem) { return !std::regex_search(problem, pattern); });
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

// A line per problem: the median of the repetitions, and their median distance from it.
class Table : public benchmark::BenchmarkReporter {
 public:
  explicit Table(const Roof& roof) : roof_(roof) {}

  bool ReportContext(const Context&) override {
    fmt::print("{:>10} {:>8} {:>9} {:>10} {:>15}  {}\n", "median", "spread", "GB/s", "GFLOP/s", "of roof",
               "problem");
    return true;
  }

  void ReportRuns(const std::vector<Run>& runs) override {
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
};

int bench(const BenchArguments& arguments) {
  std::vector<std::string> problems = read_problems(arguments.what);
  if (problems.empty()) throw FileError(arguments.what + ": has no problem");
  if (!arguments.filter.empty()) keep_matching(problems, arguments.filter);

  if (arguments.list) {
    fmt::print("{}\n", fmt::join(problems, "\n"));
    return 0;
  }

  if (!arguments.json.empty())
    const AtomicFile writable(arguments.json);  // fails now rather than after the work
  if (arguments.hot) use_hot_weights();
  const fathom::Context context(arguments.threads.options());
  const Roof roof = measure_roof(context);
  fmt::print(stderr, "{} threads, {}: reads {:.1f} GB/s, {} {:.0f} GFLOP/s\n", context.threads(),
             cpu_target(), roof.read_bytes_per_second * 1e-9, roof.flops_unit, roof.flops_per_second * 1e-9);

  CaseCache cases(context);
  std::exception_ptr error;
  for (const std::string& problem : problems) {
    const auto body = [&cases, &error, problem](benchmark::State& state) {
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
    benchmark::RegisterBenchmark(problem.c_str(), body)
        ->UseRealTime()
        ->MinTime(0.1)
        ->Repetitions(arguments.repetitions)
        ->ReportAggregatesOnly(false);
  }
  benchmark::AddCustomContext("fathom", std::string(version()));
  benchmark::AddCustomContext("cpu_target", std::string(cpu_target()));
  benchmark::AddCustomContext("threads", std::to_string(context.threads()));
  benchmark::AddCustomContext("read_bytes_per_second", fmt::format("{:.4g}", roof.read_bytes_per_second));
  benchmark::AddCustomContext("flops_per_second", fmt::format("{:.4g}", roof.flops_per_second));
  benchmark::AddCustomContext("flops_unit", std::string(roof.flops_unit));

  // The JSON takes its name only once it is whole.
  const std::string temporary = arguments.json + ".part";
  std::vector<std::string> flags{"fathom bench"};
  if (!arguments.json.empty()) flags.push_back("--benchmark_out=" + temporary);
  std::vector<char*> pointers;
  for (std::string& flag : flags) pointers.push_back(flag.data());
  int count = static_cast<int>(pointers.size());
  benchmark::Initialize(&count, pointers.data());
  Table table(roof);
  benchmark::RunSpecifiedBenchmarks(&table);
  benchmark::Shutdown();
  if (error) {
    std::filesystem::remove(temporary);
    std::rethrow_exception(error);
  }
  if (!arguments.json.empty()) std::filesystem::rename(temporary, arguments.json);
  return 0;
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
  command->add_option("--json", arguments->json, "Also write Google Benchmark's JSON to this file")
      ->type_name("OUT");
  command
      ->add_option("--filter", arguments->filter,
                   "Only problems that contain a match of this regular expression")
      ->type_name("REGEX");
  command->add_option("--repetitions", arguments->repetitions, "Timings per problem; the median is shown")
      ->check(whole_number(1, 1000))
      ->capture_default_str()
      ->type_name("N");
  command->add_flag("--hot", arguments->hot,
                    "Let weights stay in the caches; by default they come from memory");
  command->add_flag("--list", arguments->list,
                    "Print the problems, each with all of its keys, and time nothing");
  arguments->threads.add_to(*command);
  command->footer(
      "Spread is the median distance of the timings from their median. `of roof` sets the bytes and flops\n"
      "that one run needs against the read bandwidth and the arithmetic measured before the first problem,\n"
      "and shows the nearer of the two. Keys that a problem leaves out have the defaults of `fathom ops`.");
  command->callback([&action, arguments] { action = [arguments] { return bench(*arguments); }; });
}

}  // namespace fathom::cli
