// Turns device code into machine code at run time: Source -> Cubin. Kernels are loaded by kernel_cache.hpp.
// Knows no op.
#pragma once
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fathom/core/error.hpp"

namespace fathom::cuda {
struct Nvrtc;
}

namespace fathom::jit {

/// What every Source calls its kernel: extern "C" __global__ void fathom_kernel(...).
inline constexpr const char* kEntryPoint = "fathom_kernel";

/// A file of kernels/ as it was when the library was built; `name` is relative to kernels/.
struct Header {
  std::string_view name;
  std::string_view text;
};
/// All of them, sorted by name.
std::span<const Header> embedded_headers();

/// One kernel before compilation. `text` includes headers by their names in kernels/
/// (#include "sm90/fp8_gemm.cuh") and defines exactly one kernel, kEntryPoint. `name` is for people and file
/// names: [a-z0-9_.], op first, e.g. "fp8_gemm_nt.sm90_m64n128s6".
///
/// Device code is C++20 and sees no header but those of kernels/. A function without __global__ or __host__
/// is a __device__ function. Products and sums are fused only where the code says fma (__fmaf_rn): two
/// kernels that must give equal bytes must not depend on what the compiler fuses.
struct Source {
  std::string name;
  std::string text;
};

/// A compiled kernel. `log` is what the compiler said, with registers and spills; empty if it was not
/// compiled by this process.
struct Cubin {
  std::string name;
  std::string arch;
  std::vector<std::byte> bytes;
  std::string log;
};

/// The compiler refused a source. what() holds the kernel's name, the options and the log.
class CompileError : public EnvironmentError {
 public:
  CompileError(const std::string& name, std::string options, std::string log);
  const std::string& options() const { return options_; }
  const std::string& log() const { return log_; }

 private:
  std::string options_;
  std::string log_;
};

/// "sm_90a" for compute capability 9.0: with the features of that architecture alone where there are such.
std::string arch_name(int sm_major, int sm_minor);

/// Compiles for one architecture. Any number of threads may do so at once. Throws CompileError.
Cubin compile(const Source& source, const std::string& arch, const cuda::Nvrtc& nvrtc,
              std::span<const Header> headers = embedded_headers());

/// Bytes of registers that the compiler had to keep in memory, stores and loads, as a Cubin's log says.
/// Throws InvalidArgument if the log does not say.
int spilled_bytes(const Cubin& cubin);

/// Identifies a cubin by all that determines it, and nothing else: 64 hexadecimal digits of SHA-256 over the
/// source, the headers that it reaches, the options, the architecture, the compiler's version ("13.0") and
/// the version of our formats. No path, no host, no time.
std::string cache_key(const Source& source, std::string_view arch, std::string_view nvrtc_version,
                      std::span<const Header> headers = embedded_headers());

/// The headers that `text` reaches through #include "...", each once, sorted by name.
std::vector<Header> reached_headers(std::string_view text, std::span<const Header> headers);

}  // namespace fathom::jit
