// A chunk of actions from an exported policy, by OpenVINO's C++ API.
//
//   chunk FOLDER INPUTS
//
// FOLDER is what export-policy wrote. INPUTS is a folder with one file for each input of its
// manifest.json, NAME.bin: the numbers as they lie in memory (a "/" in a name is a "_").
// Prints one action a line, in physical units.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>
#include <fstream>
#include <iterator>
#include <openvino/openvino.hpp>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

// The bytes of a recorded input; throws where the file is absent or of another size.
std::vector<char> bytes_of(const std::string& path, size_t expected) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + ": no such file");
  std::vector<char> bytes((std::istreambuf_iterator<char>(file)), {});
  if (bytes.size() != expected) {
    throw std::runtime_error(path + ": has " + std::to_string(bytes.size()) +
                             " bytes, and the graph takes " + std::to_string(expected));
  }
  return bytes;
}

// Where an input was recorded: of the names of a tensor, the one that has a file.
std::string file_of(const std::string& folder, const ov::Output<const ov::Node>& input) {
  std::string tried;
  for (std::string name : input.get_names()) {
    std::replace(name.begin(), name.end(), '/', '_');
    tried = folder + "/" + name + ".bin";
    if (std::ifstream(tried)) return tried;
  }
  throw std::runtime_error(tried + ": no such file");
}

// Fill every input of the graph from its file.
void read_inputs(ov::InferRequest& request, const ov::CompiledModel& graph,
                 const std::string& folder) {
  for (size_t i = 0; i < graph.inputs().size(); ++i) {
    ov::Tensor tensor = request.get_input_tensor(i);
    const std::vector<char> bytes = bytes_of(file_of(folder, graph.input(i)),
                                             tensor.get_byte_size());
    std::memcpy(tensor.data(), bytes.data(), bytes.size());
  }
}

// Print actions [B H A], one a line.
void print_chunk(const ov::Tensor& actions) {
  const ov::Shape shape = actions.get_shape();
  const float* numbers = actions.data<const float>();
  for (size_t row = 0; row < shape[0] * shape[1]; ++row) {
    for (size_t entry = 0; entry < shape[2]; ++entry) {
      std::printf("%s%.9g", entry ? " " : "", numbers[row * shape[2] + entry]);
    }
    std::printf("\n");
  }
}

void run(const std::string& folder, const std::string& inputs) {
  ov::Core core;
  ov::CompiledModel graph = core.compile_model(
      folder + "/model.xml", "CPU",
      ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
      ov::hint::inference_precision(ov::element::f32), ov::inference_num_threads(1));
  ov::InferRequest request = graph.create_infer_request();
  read_inputs(request, graph, inputs);
  request.infer();
  print_chunk(request.get_output_tensor(0));
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) {
    std::fprintf(stderr, "usage: chunk FOLDER INPUTS\n");
    return 2;
  }
  try {
    run(arguments[1], arguments[2]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "chunk: %s\n", error.what());
    return 2;
  }
  return 0;
}
