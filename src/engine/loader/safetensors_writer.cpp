#include "engine/loader/safetensors_writer.hpp"

#include <fmt/format.h>

#include <cstring>
#include <unordered_set>

#include "core/json.hpp"
#include "engine/loader/safetensors.hpp"
#include "fathom/core/error.hpp"

namespace fathom::safetensors {

std::int64_t Declared::bytes() const {
  std::int64_t bytes = size_of(dtype);
  for (const std::int64_t size : shape) {
    if (size < 0 || __builtin_mul_overflow(bytes, size, &bytes)) {
      throw InvalidArgument(fmt::format("safetensors: tensor '{}' has a size that cannot be", name));
    }
  }
  return bytes;
}

std::string make_header(std::span<const Declared> tensors, std::string_view format) {
  // By hand, not through a tree: the order of the file is kept.
  std::string text = fmt::format(R"({{"__metadata__":{{"format":{}}})", Json(format).dump());
  std::unordered_set<std::string_view> names;
  std::int64_t at = 0;
  for (const Declared& tensor : tensors) {
    if (!names.insert(tensor.name).second || tensor.name == "__metadata__") {
      throw InvalidArgument(fmt::format("safetensors: tensor '{}' is given twice", tensor.name));
    }
    const std::int64_t end = at + tensor.bytes();
    text += fmt::format(R"(,{}:{{"dtype":"{}","shape":{},"data_offsets":[{},{}]}})", Json(tensor.name).dump(),
                        type_name(tensor.dtype), Json(tensor.shape).dump(), at, end);
    at = end;
  }
  text += '}';
  text.append((8 - text.size() % 8) % 8, ' ');
  std::string header(8, '\0');
  const auto length = static_cast<std::uint64_t>(text.size());
  std::memcpy(header.data(), &length, sizeof length);
  return header + text;
}

Writer::Writer(const std::filesystem::path& file, std::span<const Declared> tensors) : file_(file) {
  file_.write(make_header(tensors));
  for (const Declared& tensor : tensors) left_ += tensor.bytes();
}

void Writer::write(std::span<const std::byte> bytes) {
  left_ -= std::ssize(bytes);
  if (left_ < 0) throw InvalidArgument("safetensors: more bytes than the tensors hold");
  file_.write(bytes);
}

void Writer::commit() {
  if (left_ != 0)
    throw InvalidArgument(fmt::format("safetensors: {} bytes of the tensors are missing", left_));
  file_.commit();
}

void write_file(const std::filesystem::path& file,
                std::span<const std::pair<std::string, TensorView>> tensors) {
  std::vector<Declared> declared;
  for (const auto& [name, view] : tensors) {
    if (!view.is_contiguous()) {
      throw InvalidArgument(fmt::format("safetensors: tensor '{}' must be contiguous", name));
    }
    declared.push_back({name, view.dtype, {view.shape.begin(), view.shape.begin() + view.rank}});
  }
  Writer writer(file, declared);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    writer.write(
        std::span(tensors[i].second.as<const std::byte>(), static_cast<std::size_t>(declared[i].bytes())));
  }
  writer.commit();
}

}  // namespace fathom::safetensors
