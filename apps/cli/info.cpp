// fathom info: what this build and this machine can do, and with a model what that needs.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <string_view>

#include "commands.hpp"
#include "fathom/core/context.hpp"
#include "fathom/core/op_info.hpp"
#include "fathom/cuda/probe.hpp"

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
  fmt::print("\nops, implementations best first\n");
  for (const OpInfo* op : all_ops()) {
    fmt::print("  {:<26} {:<30} {}\n", op->name, fmt::format("{}", fmt::join(op->implementations, ", ")),
               op->summary);
  }
}

int info(const std::string&) {
  const Context context;
  print_machine(context);
  print_environment();
  print_ops();
  return 0;
}

}  // namespace

void add_info(CLI::App& program, Action& action) {
  CLI::App* command =
      program.add_subcommand("info", "Show the build, the machine, the ops, and what a model needs");
  const auto model = std::make_shared<std::string>();
  command->add_option("--model", *model, "Also describe the model in this folder")->type_name("DIR");
  command->callback([&action, model] { action = [model] { return info(*model); }; });
}

}  // namespace fathom::cli
