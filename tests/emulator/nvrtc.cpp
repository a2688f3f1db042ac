// libnvrtc, with the host's compiler behind it: a "cubin" is a shared object for the host.
#include <dlfcn.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <regex>
#include <sstream>
#include <string>
#include <system_error>
#include <vector>

#include "cuda/driver_types.hpp"

extern char** environ;

namespace fathom::cuda {

struct NvrtcProgramObject {
  std::string source;
  std::map<std::string, std::string> headers;
  std::string log;
  std::string object;
};

}  // namespace fathom::cuda

namespace fathom::emulator {
namespace {

namespace fs = std::filesystem;
using cuda::NvrtcProgram;
using cuda::Result;

constexpr Result kFailed = 9;  // NVRTC_ERROR_BUILTIN_OPERATION_FAILURE, as good as any

std::string read(const fs::path& file) {
  std::ostringstream text;
  text << std::ifstream(file, std::ios::binary).rdbuf();
  return text.str();
}

/// extern __shared__ T name[]; is a pointer here.
std::string with_dynamic_shared(const std::string& text) {
  static const std::regex pattern(
      R"(extern\s+__shared__\s+([A-Za-z_][A-Za-z0-9_ ]*?)\s+([A-Za-z_]\w*)\s*\[\s*\]\s*;)");
  return std::regex_replace(text, pattern,
                            "$1* const $2 = static_cast<$1*>(::fathom::emulator::dynamic_shared());");
}

const char* const kTail = R"(
#define FATHOM_EXPORT extern "C" __attribute__((visibility("default")))
FATHOM_EXPORT void fathom_emulator_call(void** parameters) {
  decltype(fathom::emulator::entry_of(fathom_kernel))::call(fathom_kernel, parameters);
}
FATHOM_EXPORT const unsigned* fathom_emulator_sizes() {
  return decltype(fathom::emulator::entry_of(fathom_kernel))::kSizes;
}
FATHOM_EXPORT void* fathom_emulator_static() { return &fathom::emulator::static_probe; }
)";

std::string own_library() {
  Dl_info info{};
  dladdr(reinterpret_cast<const void*>(&own_library), &info);
  return fs::canonical(info.dli_fname).string();
}

std::vector<std::string> vector_options() {
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return {};
  return {"-mavx2", "-mfma"};
}

/// Runs a command, its output into the file `log`. Whether it succeeded.
bool run(const std::vector<std::string>& command, const fs::path& log) {
  std::vector<char*> words;
  for (const std::string& word : command) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 1, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  posix_spawn_file_actions_adddup2(&actions, 1, 2);
  pid_t child = 0;
  // The emulator stands in for the driver in this process, not in the compiler's.
  std::vector<char*> variables;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    if (std::strncmp(*variable, "LD_", 3) != 0) variables.push_back(*variable);
  }
  variables.push_back(nullptr);
  const int error = posix_spawnp(&child, words[0], &actions, nullptr, words.data(), variables.data());
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) throw std::system_error(error, std::generic_category(), command[0]);
  int status = 1;
  return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

bool compile(cuda::NvrtcProgramObject& program) {
  std::string folder = (fs::temp_directory_path() / "fathom-emulator-XXXXXX").string();
  if (mkdtemp(folder.data()) == nullptr) throw std::system_error(errno, std::generic_category(), folder);
  const fs::path place = folder;
  const auto remove = [](const fs::path* made) {
    std::error_code ignored;
    if (std::getenv("FATHOM_EMULATOR_KEEP") == nullptr) fs::remove_all(*made, ignored);
  };
  const std::unique_ptr<const fs::path, decltype(remove)> removed(&place, remove);  // whatever happens
  const fs::path here = FATHOM_EMULATOR_DIR;
  for (const auto& [name, text] : program.headers) {
    if (fs::exists(here / name)) continue;  // a twin of ours
    fs::create_directories((place / name).parent_path());
    std::ofstream(place / name, std::ios::binary) << with_dynamic_shared(text);
  }
  std::ofstream(place / "kernel.cpp", std::ios::binary) << with_dynamic_shared(program.source) << kTail;
  std::vector<std::string> command{FATHOM_EMULATOR_CXX,
                                   "-std=c++20",
                                   "-O1",
                                   "-fPIC",
                                   "-shared",
                                   "-w",
                                   "-fno-strict-aliasing",
                                   "-fwrapv",
                                   "-ffp-contract=off",
                                   "-fvisibility=hidden"};
#ifndef __clang__  // knows neither the option nor such symbols, which keep a library from being unloaded
  command.emplace_back("-fno-gnu-unique");
#endif
  for (const std::string& option : vector_options()) command.push_back(option);
  command.insert(command.end(),
                 {"-I" + here.string(), "-I" + place.string(), "-include", (here / "cuda.hpp").string(),
                  (place / "kernel.cpp").string(), own_library(), "-o", (place / "kernel.so").string()});
  const bool compiled = run(command, place / "log");
  program.log = read(place / "log");
  if (compiled) program.object = read(place / "kernel.so");
  return compiled;
}

/// Of what decides what a source becomes: kernels are cached by it.
int version_of_this() {
  std::uint32_t hash = 2166136261u;
  const auto add = [&](const std::string& text) {
    for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619u;
  };
  const fs::path here = FATHOM_EMULATOR_DIR;
  for (const char* name : {"cuda.hpp", "machine.hpp", "nvrtc.cpp"}) add(read(here / name));
  std::map<std::string, std::string> twins;
  for (const auto& entry : fs::directory_iterator(here / "ptx"))
    twins[entry.path().filename().string()] = read(entry.path());
  for (const auto& [name, text] : twins) add(name + text);
  add(FATHOM_EMULATOR_CXX __VERSION__);
  for (const std::string& option : vector_options()) add(option);
  return static_cast<int>(hash >> 2);
}

}  // namespace

#define FATHOM_EXPORT extern "C" __attribute__((visibility("default"))) Result

FATHOM_EXPORT nvrtcVersion(int* major, int* minor) {
  static const int version = version_of_this();
  *major = 90;  // no NVRTC has it, so nothing that one compiled is taken for ours
  *minor = version;
  return 0;
}
FATHOM_EXPORT nvrtcGetNumSupportedArchs(int* count) { return *count = 1, 0; }
FATHOM_EXPORT nvrtcGetSupportedArchs(int* archs) { return *archs = 90, 0; }
FATHOM_EXPORT nvrtcCreateProgram(NvrtcProgram* program, const char* source, const char*, int count,
                                 const char* const* texts, const char* const* names) {
  auto made = std::make_unique<cuda::NvrtcProgramObject>();
  made->source = source;
  for (int i = 0; i < count; ++i) made->headers[names[i]] = texts[i];
  *program = made.release();
  return 0;
}
FATHOM_EXPORT nvrtcDestroyProgram(NvrtcProgram* program) {
  delete *program;
  *program = nullptr;
  return 0;
}
FATHOM_EXPORT nvrtcCompileProgram(NvrtcProgram program, int, const char* const*) {
  try {
    return compile(*program) ? 0 : cuda::kNvrtcErrorCompilation;
  } catch (const std::exception& error) {
    program->log = error.what();
    return kFailed;
  }
}
FATHOM_EXPORT nvrtcGetCUBINSize(NvrtcProgram program, std::size_t* bytes) {
  return *bytes = program->object.size(), 0;
}
FATHOM_EXPORT nvrtcGetCUBIN(NvrtcProgram program, char* to) {
  return std::memcpy(to, program->object.data(), program->object.size()), 0;
}
FATHOM_EXPORT nvrtcGetPTXSize(NvrtcProgram, std::size_t*) { return kFailed; }
FATHOM_EXPORT nvrtcGetPTX(NvrtcProgram, char*) { return kFailed; }
FATHOM_EXPORT nvrtcGetProgramLogSize(NvrtcProgram program, std::size_t* bytes) {
  return *bytes = program->log.size() + 1, 0;
}
FATHOM_EXPORT nvrtcGetProgramLog(NvrtcProgram program, char* to) {
  return std::memcpy(to, program->log.c_str(), program->log.size() + 1), 0;
}
extern "C" __attribute__((visibility("default"))) const char* nvrtcGetErrorString(Result status) {
  return status == 0 ? "success" : "the host's compiler failed";
}

}  // namespace fathom::emulator
