// fathom kernels and fathom warmup: device code compiled ahead of its use.
#include "fathom/ops/kernels.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <vector>

#include "checks.hpp"
#include "commands.hpp"
#include "core/file.hpp"
#include "fathom/core/context.hpp"
#include "fathom/core/error.hpp"
#include "fathom/engine/config.hpp"
#include "fathom/engine/problems.hpp"
#include "model_arguments.hpp"
#include "progress.hpp"

namespace fathom::cli {
namespace {

struct KernelArguments {
  std::string model;
  bool all = false;
  std::string arch;
  std::string pack;
};

std::vector<std::string> problems_of(const KernelArguments& arguments) {
  if (arguments.all == !arguments.model.empty()) {
    throw InvalidArgument("one of --model DIR and --all is needed");
  }
  return arguments.all ? deepseek_v32_problems() : model_problems(ModelConfig::load(arguments.model));
}

std::string summary(const KernelBuild& build) {
  return fmt::format("{} kernels, {} compiled in {:.2f} s", build.kernels, build.compiled, build.seconds);
}

int build(const KernelArguments& arguments) {
  const std::vector<std::string> problems = problems_of(arguments);
  { const AtomicFile writable(arguments.pack); }  // fails now rather than after the work
  const Context context;
  Progress bar("kernels");
  const KernelBuild result =
      build_kernel_pack(arguments.pack, problems, arguments.arch, context,
                        [&bar](std::int64_t done, std::int64_t total) { bar.show(done, total); });
  bar.erase();
  fmt::print("{}: {}\n", result.place, summary(result));
  return 0;
}

int warmup(const KernelArguments& arguments) {
  const std::vector<std::string> problems = problems_of(arguments);
  ContextOptions options = ContextOptions::from_environment();
  if (!arguments.pack.empty()) options.kernel_pack = arguments.pack;
  // The architecture of this machine's device, unless one is named: then no GPU is needed.
  if (arguments.arch.empty() && options.device == "cpu") options.device = "cuda";
  const Context context(options);
  const std::string arch = arguments.arch.empty() ? kernel_architecture(context) : arguments.arch;
  Progress bar("kernels");
  const KernelBuild result = warm_up_kernels(
      problems, arch, context, [&bar](std::int64_t done, std::int64_t total) { bar.show(done, total); });
  bar.erase();
  const std::string place =
      result.place.empty() ? "no folder: they are lost with this process" : result.place;
  if (result.compiled == 0) {
    fmt::print("{}: all {} kernels for {} are there; nothing to do\n", place, result.kernels, arch);
  } else {
    fmt::print("{}: {} for {}\n", place, summary(result), arch);
  }
  return 0;
}

int info(const KernelArguments& arguments) {
  const KernelPackInfo pack = read_kernel_pack(arguments.pack);
  std::int64_t bytes = 0;
  std::string archs;
  for (const PackedKernel& kernel : pack.kernels) {
    bytes += kernel.bytes;
    if (archs.find(kernel.arch) == std::string::npos) archs += (archs.empty() ? "" : ", ") + kernel.arch;
  }
  fmt::print("{:<14} {}\n", "pack", arguments.pack);
  fmt::print("{:<14} {}\n", "fathom", pack.fathom_version);
  fmt::print("{:<14} {}\n", "nvrtc", pack.nvrtc_version);
  fmt::print("{:<14} {}\n", "architectures", archs);
  fmt::print("{:<14} {}, {} bytes of code in a file of {}\n", "kernels", pack.kernels.size(), bytes,
             pack.file_bytes);
  return 0;
}

int list(const KernelArguments& arguments) {
  for (const PackedKernel& kernel : read_kernel_pack(arguments.pack).kernels) {
    fmt::print("{:<8} {:<48} {:>8} {}\n", kernel.arch, kernel.name, kernel.bytes, kernel.key);
  }
  return 0;
}

int verify(const KernelArguments& arguments) {
  const KernelPackInfo pack = read_kernel_pack(arguments.pack, /*verify=*/true);
  fmt::print("{}: {} kernels, every one as the manifest says\n", arguments.pack, pack.kernels.size());
  return 0;
}

void add_problems(CLI::App& command, KernelArguments& arguments) {
  CLI::Option* model =
      command.add_option("--model", arguments.model, "The kernels of the model in this folder");
  model->check(not_empty())->type_name("DIR");
  command.add_flag("--all", arguments.all, "The kernels of DeepSeek-V3.2")->excludes(model);
}

void add_arch(CLI::App& command, KernelArguments& arguments, const std::string& help, bool required) {
  const auto known = kernel_architectures();
  command.add_option("--arch", arguments.arch, help)
      ->type_name("ARCH")
      ->required(required)
      ->check(CLI::IsMember(std::vector<std::string>(known.begin(), known.end())));
}

}  // namespace

void add_kernels(CLI::App& program, Action& action) {
  CLI::App* command = program.add_subcommand("kernels", "Make and look into kernel packs");
  command->require_subcommand(1);
  const auto arguments = std::make_shared<KernelArguments>();
  const auto add = [&](const std::string& name, const std::string& help, int (*run)(const KernelArguments&)) {
    CLI::App* sub = command->add_subcommand(name, help);
    sub->callback([&action, arguments, run] { action = [arguments, run] { return run(*arguments); }; });
    return sub;
  };
  CLI::App* make = add("build", "Compile kernels into a pack; needs NVRTC, no GPU", build);
  add_problems(*make, *arguments);
  add_arch(*make, *arguments, "For this architecture", /*required=*/true);
  make->add_option("-o,--output", arguments->pack, "The pack to write")
      ->check(not_empty())
      ->type_name("PACK")
      ->required();
  const auto pack = [&](CLI::App* sub) {
    sub->add_option("pack", arguments->pack, "A kernel pack")
        ->check(not_empty())
        ->type_name("PACK")
        ->required();
  };
  pack(add("list", "List the kernels of a pack: architecture, name, bytes, key", list));
  pack(add("verify", "Check every kernel of a pack against its manifest", verify));
  pack(add("info", "Say what a pack is", info));
}

void add_warmup(CLI::App& program, Action& action) {
  CLI::App* command =
      program.add_subcommand("warmup", "Compile the kernels that a model needs and the cache lacks");
  const auto arguments = std::make_shared<KernelArguments>();
  add_problems(*command, *arguments);
  add_arch(*command, *arguments, "For this architecture; without it for this machine's GPU",
           /*required=*/false);
  add_kernel_pack(*command, arguments->pack);
  command->callback([&action, arguments] { action = [arguments] { return warmup(*arguments); }; });
}

}  // namespace fathom::cli
