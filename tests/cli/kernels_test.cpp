// fathom kernels and fathom warmup: packs and caches from start to end, with the real compiler and no GPU.
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "cli/program.hpp"
#include "jit/nvrtc.hpp"
#include "jit/scratch.hpp"

namespace fathom::cli_test {
namespace {

namespace fs = std::filesystem;

struct KernelsCommand : testing::Test {
  Outcome run(std::vector<std::string> arguments) { return fathom(arguments, {.environment = environment}); }

  jit::Scratch scratch;
  std::string pack = scratch / "fathom.pack";
  std::map<std::string, std::string> environment{
      {"FATHOM_CACHE_DIR", scratch / "cache"},
      {"LD_LIBRARY_PATH", fs::path(jit::nvrtc_path()).parent_path().string() + ":/usr/local/cuda/lib64"}};
};

TEST_F(KernelsCommand, BuildVerifyListInfo) {
  const Outcome built = run({"kernels", "build", "--arch", "sm_90a", "--model", bundled_model(), "-o", pack});
  expect_done(built);
  EXPECT_NE(built.out.find(pack + ": "), std::string::npos) << built.out;
  const Outcome verified = run({"kernels", "verify", pack});
  expect_done(verified);
  const Outcome listed = run({"kernels", "list", pack});
  expect_done(listed);
  const auto lines = std::count(listed.out.begin(), listed.out.end(), '\n');
  EXPECT_NE(built.out.find(fmt::format(": {0} kernels, {0} compiled", lines)), std::string::npos)
      << built.out;
  EXPECT_NE(verified.out.find(fmt::format(": {} kernels", lines)), std::string::npos) << verified.out;
  const Outcome info = run({"kernels", "info", pack});
  expect_done(info);
  EXPECT_NE(info.out.find("nvrtc"), std::string::npos);
  environment["FATHOM_KERNEL_PACK"] = pack;
  EXPECT_NE(run({"info"}).out.find(pack), std::string::npos);
  const Outcome warm = run({"warmup", "--arch", "sm_90a", "--model", bundled_model()});
  expect_done(warm);
  EXPECT_NE(warm.out.find("nothing to do"), std::string::npos) << "the pack has them all: " << warm.out;
  environment.erase("FATHOM_KERNEL_PACK");
  const Outcome named =
      run({"warmup", "--arch", "sm_90a", "--model", bundled_model(), "--kernel-pack", pack});
  EXPECT_NE(named.out.find("nothing to do"), std::string::npos) << named.out;
  // One of this name beside the program is found without being named.
  fs::copy_file(FATHOM_PROGRAM, scratch / "fathom");
  const std::string command = "'" + (scratch / "fathom") + "' info > '" + (scratch / "out") + "'";
  ASSERT_EQ(std::system(command.c_str()), 0);
  EXPECT_NE(read_text(scratch / "out").find(pack), std::string::npos) << read_text(scratch / "out");
}

// Started by its bare name, through PATH, the program does not know its folder, and must not take the current
// one.
TEST_F(KernelsCommand, APackOfTheCurrentFolderIsNotTouched) {
  std::ofstream(pack) << "something else, and more than fifty bytes of it, so that it could be one";
  const std::string command = "cd '" + scratch.path().string() + "' && PATH='" +
                              fs::path(FATHOM_PROGRAM).parent_path().string() +
                              "':\"$PATH\" fathom info > out 2> err";
  ASSERT_EQ(std::system(command.c_str()), 0);
  EXPECT_EQ(read_text(scratch / "err").find("kernel pack"), std::string::npos) << read_text(scratch / "err");
}

TEST_F(KernelsCommand, WarmUpTwice) {
  const Outcome first = run({"warmup", "--arch", "sm_90a", "--model", bundled_model()});
  expect_done(first);
  EXPECT_EQ(first.err, "") << "no bar where there is no terminal";
  const Outcome second = run({"warmup", "--arch", "sm_90a", "--model", bundled_model()});
  expect_done(second);
  EXPECT_NE(second.out.find("nothing to do"), std::string::npos) << second.out;
}

TEST_F(KernelsCommand, BadPacksAreRefused) {
  expect_refused(run({"kernels", "verify", scratch / "missing"}), "missing: cannot be opened");
  std::ofstream(pack) << "something else, and more than fifty bytes of it, so that it could be one";
  for (const char* command : {"verify", "list", "info"})
    expect_refused(run({"kernels", command, pack}), "is no kernel pack");
  environment["FATHOM_KERNEL_PACK"] = pack;
  expect_refused(run({"warmup", "--arch", "sm_90a", "--all"}), "is no kernel pack");
  environment.erase("FATHOM_KERNEL_PACK");
  expect_refused(run({"warmup", "--arch", "sm_90a", "--all", "--kernel-pack", pack}), "is no kernel pack");
  expect_refused(run({"kernels", "build", "--arch", "sm_90a", "--all", "-o", scratch / "missing/pack"}),
                 "missing/pack: cannot be written");
  expect_refused(run({"kernels", "build", "--arch", "sm_90a", "-o", pack}),
                 "one of --model DIR and --all is needed");
  expect_refused(run({"kernels", "build", "--arch", "sm_90", "--all", "-o", pack}), "sm_90 not in");
  expect_refused(run({"kernels", "build", "--arch", "sm_90a", "--all"}), "--output is required");
  expect_refused(run({"kernels"}), "subcommand");
  expect_refused(run({"warmup", "--all", "--model", bundled_model()}), "excludes");
}

}  // namespace
}  // namespace fathom::cli_test
