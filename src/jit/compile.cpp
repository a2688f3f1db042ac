// Source -> Cubin through NVRTC.
#include <fmt/format.h>

#include <charconv>
#include <memory>
#include <utility>

#include "cuda/nvrtc.hpp"
#include "jit/jit.hpp"
#include "jit/options.hpp"

namespace fathom::jit {
namespace {

struct Program {
  explicit Program(const cuda::Nvrtc& library) : nvrtc(library) {}
  ~Program() {
    if (handle != nullptr) nvrtc.nvrtcDestroyProgram(&handle);
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  std::string log() const {
    std::size_t bytes = 0;  // the end's zero included
    if (nvrtc.nvrtcGetProgramLogSize(handle, &bytes) != cuda::kSuccess || bytes <= 1) return {};
    std::string text(bytes, '\0');
    if (nvrtc.nvrtcGetProgramLog(handle, text.data()) != cuda::kSuccess) return {};
    text.resize(bytes - 1);
    return text;
  }

  const cuda::Nvrtc& nvrtc;
  cuda::NvrtcProgram handle = nullptr;
};

}  // namespace

CompileError::CompileError(const std::string& name, std::string options, std::string log)
    : EnvironmentError(fmt::format("kernel {} does not compile with {}\n{}", name, options, log)),
      options_(std::move(options)),
      log_(std::move(log)) {}

Cubin compile(const Source& source, const std::string& arch, const cuda::Nvrtc& nvrtc,
              std::span<const Header> headers) {
  const std::string doing = "compiling kernel " + source.name;
  std::vector<std::string> names;
  std::vector<std::string> texts;  // with the zero at the end that NVRTC wants
  for (const Header& header : reached_headers(source.text, headers)) {
    names.emplace_back(header.name);
    texts.emplace_back(header.text);
  }
  std::vector<const char*> name_pointers;
  std::vector<const char*> text_pointers;
  for (std::size_t i = 0; i < names.size(); ++i) {
    name_pointers.push_back(names[i].c_str());
    text_pointers.push_back(texts[i].c_str());
  }
  Program program(nvrtc);
  nvrtc.check(
      nvrtc.nvrtcCreateProgram(&program.handle, source.text.c_str(), (source.name + ".cu").c_str(),
                               static_cast<int>(names.size()), text_pointers.data(), name_pointers.data()),
      "nvrtcCreateProgram", doing);
  const std::vector<std::string> options = compile_options(arch);
  std::vector<const char*> option_pointers;
  for (const std::string& option : options) option_pointers.push_back(option.c_str());
  const cuda::Result status =
      nvrtc.nvrtcCompileProgram(program.handle, static_cast<int>(options.size()), option_pointers.data());
  std::string log = program.log();
  if (status != cuda::kSuccess) {
    throw CompileError(source.name,
                       fmt::format("NVRTC {}.{} {}", nvrtc.major, nvrtc.minor, fmt::join(options, " ")),
                       fmt::format("{}{}", log, log.empty() ? nvrtc.nvrtcGetErrorString(status) : ""));
  }
  std::size_t bytes = 0;
  nvrtc.check(nvrtc.nvrtcGetCUBINSize(program.handle, &bytes), "nvrtcGetCUBINSize", doing);
  Cubin cubin{source.name, arch, std::vector<std::byte>(bytes), std::move(log)};
  nvrtc.check(nvrtc.nvrtcGetCUBIN(program.handle, reinterpret_cast<char*>(cubin.bytes.data())),
              "nvrtcGetCUBIN", doing);
  return cubin;
}

int spilled_bytes(const Cubin& cubin) {
  // "    0 bytes stack frame, 16 bytes spill stores, 24 bytes spill loads", once per function
  int total = 0;
  bool said = false;
  for (const std::string_view what : {" bytes spill stores", " bytes spill loads"}) {
    for (auto at = cubin.log.find(what); at != std::string::npos; at = cubin.log.find(what, at + 1)) {
      const auto start = cubin.log.find_last_of(' ', at - 1) + 1;
      int bytes = 0;
      const auto [end, error] = std::from_chars(cubin.log.data() + start, cubin.log.data() + at, bytes);
      if (error != std::errc{} || end != cubin.log.data() + at) continue;
      total += bytes;
      said = true;
    }
  }
  if (!said)
    throw InvalidArgument("the log of kernel " + cubin.name + " says nothing about spills:\n" + cubin.log);
  return total;
}

}  // namespace fathom::jit
