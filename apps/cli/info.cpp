// fathom info: what this build and this machine can do, and with a model what that needs.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "checks.hpp"
#include "commands.hpp"
#include "fathom/core/context.hpp"
#include "fathom/core/op_info.hpp"
#include "fathom/cuda/probe.hpp"
#include "fathom/engine/checkpoint.hpp"
#include "fathom/engine/plan.hpp"
#include "fathom/ops/kernels.hpp"

namespace fathom::cli {
namespace {

#ifdef __clang__
constexpr std::string_view kCompiler = __VERSION__;
#else
constexpr std::string_view kCompiler = "gcc " __VERSION__;
#endif
#ifdef NDEBUG
constexpr std::string_view kAsserts = "without asserts";
#else
constexpr std::string_view kAsserts = "with asserts";
#endif

void row(std::string_view name, std::string_view value) { fmt::print("{:<10} {}\n", name, value); }

struct Processor {
  std::string name = "unknown";
  std::string features;  // of those that matter to kernels
};

Processor processor() {
  Processor result;
  std::ifstream file("/proc/cpuinfo");
  std::string flags;
  for (std::string line; std::getline(file, line);) {
    const auto colon = line.find(": ");
    if (colon == std::string::npos) continue;
    if (line.starts_with("model name")) result.name = line.substr(colon + 2);
    if (line.starts_with("flags")) flags = " " + line.substr(colon + 2) + " ";
    if (line.starts_with("flags")) break;  // the other processors are the same
  }
  for (const std::string_view feature :
       {"sse4_1", "sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512vl",
        "avx512dq", "avx512vbmi", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8"}) {
    if (flags.find(fmt::format(" {} ", feature)) == std::string::npos) continue;
    result.features += (result.features.empty() ? "" : " ") + std::string(feature);
  }
  return result;
}

void print_machine(const Context& context) {
  const Processor cpu = processor();
  std::string targets;
  for (const std::string_view name : cpu_targets()) {
    targets += (targets.empty() ? "" : ", ") + std::string(name) + (name == cpu_target() ? " (in use)" : "");
  }
  const auto probe = [](const LibraryProbe& library) {
    return (library.usable ? "found: " : "not usable: ") + library.detail;
  };
  row("fathom", version());
  row("build", fmt::format("{}, {}, {}", kCompiler, FATHOM_BUILD_TYPE, kAsserts));
  row("cpu", fmt::format("{}; {} threads in use", cpu.name, context.threads()));
  row("features", cpu.features.empty() ? "none that is used" : cpu.features);
  row("targets", targets);
  row("cuda", probe(probe_cuda_driver()));
  row("nvrtc", probe(probe_nvrtc()));
  const KernelPlaces kernels = kernel_places(context);
  row("cache", kernels.cache);
  row("pack", kernels.pack);
}

void print_environment() {
  fmt::print("\nenvironment variables\n");
  for (const EnvironmentVariable& variable : environment_variables()) {
    const char* value = std::getenv(std::string(variable.name).c_str());
    const bool set = value != nullptr && *value != '\0';
    const std::string_view shown = set ? value : variable.default_value;
    fmt::print("  {:<26} {:<20} {}\n", variable.name,
               fmt::format("{}{}", shown.empty() ? "-" : shown, set ? "" : " (default)"), variable.meaning);
  }
}

void print_ops() {
  fmt::print("\nops: what each does; its implementations, best first\n");
  for (const OpInfo* op : all_ops()) {
    fmt::print("  {:<26} {:<68} {}\n", op->name, op->summary, fmt::join(op->implementations, ", "));
  }
}

std::string megabytes(std::int64_t bytes) {
  return fmt::format("{:.1f} MB", static_cast<double>(bytes) * 1e-6);
}

void print_list(std::string_view title, const std::vector<std::string>& lines, bool all) {
  if (lines.empty()) return;
  constexpr std::size_t kShown = 20;
  const std::size_t shown = all ? lines.size() : std::min(kShown, lines.size());
  fmt::print("\n{}, {}\n", title, lines.size());
  for (std::size_t i = 0; i < shown; ++i) fmt::print("  {}\n", lines[i]);
  if (shown < lines.size()) fmt::print("  and {} more; --all lists them\n", lines.size() - shown);
}

void print_model(const std::string& directory, const Checkpoint& checkpoint, bool all) {
  const ModelPlan plan = plan_model(checkpoint);
  const std::int64_t positions = checkpoint.config().max_position_embeddings;
  fmt::print("\nmodel {}\n", directory);
  for (const auto& [name, value] : plan.architecture) fmt::print("  {:<26} {}\n", name, value);
  fmt::print("  {:<26} {}, of which {} are in the MTP layer and {} are used for one token\n", "parameters",
             plan.parameters, plan.mtp_parameters, plan.active_parameters);
  fmt::print("  {:<26} {} of {} the config asks for{}\n", "tensors",
             plan.expected - std::ssize(plan.missing) - plan.left_out, plan.expected,
             plan.left_out > 0 ? fmt::format("; {} of the others are optional", plan.left_out) : "");
  fmt::print("\nmemory\n");
  fmt::print("  {:<26} {}, mapped from the files\n", "weights", megabytes(plan.weight_bytes));
  fmt::print("  {:<26} {} with --precision fp8, {} with fp32\n", "absorbed attention weights",
             megabytes(plan.absorbed_bytes_fp8), megabytes(plan.absorbed_bytes_fp32));
  for (const CacheBytes& cache : plan.cache) {
    for (const auto& [precision, index] :
         {std::pair("fp8", cache.index_fp8), std::pair("fp32", cache.index_f32)}) {
      fmt::print("  {:<26} {} bytes per token, {} for {} tokens (--precision {})\n",
                 fmt::format("caches, --kv-cache {}", cache.name), cache.kv + index,
                 megabytes((cache.kv + index) * positions), positions, precision);
    }
  }
  print_list("missing files", plan.missing_files, all);
  print_list("missing tensors", plan.missing, all);
  print_list("tensors of another dtype or shape than the config asks for", plan.wrong, all);
}

struct InfoArguments {
  std::string model;
  bool all = false;
};

int info(const InfoArguments& arguments) {
  std::optional<Checkpoint> checkpoint;  // opened first: a bad one is refused before anything is printed
  if (!arguments.model.empty()) checkpoint = Checkpoint::open(arguments.model, {.allow_missing = true});
  const Context context;
  print_machine(context);
  print_environment();
  print_ops();
  if (checkpoint) print_model(arguments.model, *checkpoint, arguments.all);
  return 0;
}

}  // namespace

void add_info(CLI::App& program, Action& action) {
  CLI::App* command =
      program.add_subcommand("info", "Show the build, the machine, the ops, and what a model needs");
  const auto arguments = std::make_shared<InfoArguments>();
  CLI::Option* model =
      command->add_option("--model", arguments->model, "Also describe the model in this folder");
  model->check(not_empty())->type_name("DIR");
  command->add_flag("--all", arguments->all, "List every missing tensor, not only the first ones")
      ->needs(model);
  command->callback([&action, arguments] { action = [arguments] { return info(*arguments); }; });
}

}  // namespace fathom::cli
