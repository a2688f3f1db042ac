// Writes safetensors files. A file appears under its name when it is complete, or not at all.
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/file.hpp"
#include "fathom/core/tensor.hpp"

namespace fathom::safetensors {

/// A tensor of a file to be written.
struct Declared {
  std::string name;
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;

  std::int64_t bytes() const;
};

/// Length and header for these tensors, whose bytes follow in this order; padded to a multiple of 8 bytes.
/// Throws InvalidArgument if two have one name.
std::string make_header(std::span<const Declared> tensors, std::string_view format = "pt");

/// Streams tensors into a file. Widest dtypes should come first: then every tensor is aligned.
class Writer {
 public:
  /// Throws FileError if the file cannot be made, EnvironmentError if the disk is full.
  Writer(const std::filesystem::path& file, std::span<const Declared> tensors);
  /// The next bytes of the tensors, in any pieces. Throws EnvironmentError if the disk is full.
  void write(std::span<const std::byte> bytes);
  /// Throws InvalidArgument unless exactly the declared bytes were written.
  void commit();

 private:
  AtomicFile file_;
  std::int64_t left_ = 0;
};

/// Writes contiguous host tensors, by name.
void write_file(const std::filesystem::path& file,
                std::span<const std::pair<std::string, TensorView>> tensors);

}  // namespace fathom::safetensors
