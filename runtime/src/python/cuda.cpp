// CUDA for Python: devices, streams, events, memory of devices. Programs of a device are built and
// run as those of the processor are.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bindings.h"
#include "deepseek/cuda_executor.h"
#include "gil.h"

namespace deepseek::python {
namespace {

using cuda::Device;
using cuda::Event;
using cuda::Stream;

py::dict properties(int index) {
  const cuda::Properties found = Device::properties_of(index);
  py::dict dict;
  dict["name"] = found.name;
  dict["major"] = found.major;
  dict["minor"] = found.minor;
  dict["total_memory"] = found.total_memory;
  dict["multi_processor_count"] = found.multiprocessors;
  dict["warp_size"] = found.warp_size;
  dict["max_threads_per_block"] = found.max_threads_per_block;
  dict["max_threads_per_multi_processor"] = found.max_threads_per_multiprocessor;
  dict["shared_memory_per_block"] = found.shared_per_block;
  dict["shared_memory_per_block_optin"] = found.shared_per_block_opt_in;
  dict["shared_memory_per_multiprocessor"] = found.shared_per_multiprocessor;
  dict["regs_per_multiprocessor"] = found.registers_per_multiprocessor;
  dict["L2_cache_size"] = found.l2_bytes;
  dict["is_integrated"] = found.integrated;
  dict["uuid"] = found.uuid;
  return dict;
}

// The default stream belongs to its device.
std::shared_ptr<Stream> borrowed(Stream& stream) {
  return {&stream, [](Stream*) {}};
}

std::shared_ptr<Stream> current_or(const std::shared_ptr<Stream>& stream, Device& device) {
  return stream ? stream : borrowed(device.current_stream());
}

void set_memory_limit(int index, std::optional<size_t> nbytes) {
  Device::get(index).memory().set_limit(nbytes);
}

template <typename Object, typename Result>
auto without_gil(Result (Object::*method)() const) {
  return [method](const Object& object) {
    const WithoutGil release;
    return (object.*method)();
  };
}

void bind_devices(py::module_& module) {
  module.def("cuda_set_driver", &cuda::set_driver_path, py::arg("path"));
  module.def("cuda_unavailable", &cuda::why_unavailable);
  module.def("cuda_driver_version", [] { return cuda::driver().version; });
  module.def("cuda_device_count", &Device::count);
  module.def("cuda_properties", &properties, py::arg("device"));
  module.def(
      "cuda_set_synchronous", [](bool on) { cuda::settings().synchronous = on; }, py::arg("on"));
  module.def("cuda_set_graphs", [](bool on) { cuda::settings().graphs = on; }, py::arg("on"));
  module.def(
      "cuda_synchronize",
      [](int index) {
        const WithoutGil release;
        Device::get(index).synchronize();
      },
      py::arg("device"));
  module.def(
      "cuda_can_access_peer",
      [](int index, int peer) { return Device::get(index).can_access(Device::get(peer)); },
      py::arg("device"), py::arg("peer"));
}

void bind_memory(py::module_& module) {
  module.def(
      "cuda_pool_stats",
      [](int index, bool pinned) {
        Device& device = Device::get(index);
        return stats_of(pinned ? device.pinned() : device.memory());
      },
      py::arg("device"), py::arg("pinned") = false);
  module.def(
      "cuda_live_blocks", [](int index) { return Device::get(index).memory().live_blocks(); },
      py::arg("device"));
  module.def("cuda_set_memory_limit", &set_memory_limit, py::arg("device"), py::arg("nbytes"));
  module.def(
      "cuda_empty_cache",
      [](int index) {
        const WithoutGil release;
        Device& device = Device::get(index);
        return device.memory().empty_cache() + device.pinned().empty_cache();
      },
      py::arg("device"));
  module.def(
      "cuda_reset_peak", [](int index) { Device::get(index).memory().reset_peak(); },
      py::arg("device"));
  module.def(
      "cuda_free_memory", [](int index) { return Device::get(index).free_memory(); },
      py::arg("device"));
}

void bind_streams(py::module_& module) {
  py::class_<Stream, std::shared_ptr<Stream>>(module, "CudaStream", py::is_final(),
                                              "A queue of work of a device.")
      .def(
          py::init([](int index, int priority) { return Device::get(index).new_stream(priority); }),
          py::arg("device"), py::arg("priority") = 0)
      .def_static(
          "default", [](int index) { return borrowed(Device::get(index).default_stream()); },
          py::arg("device"))
      .def_static(
          "current", [](int index) { return borrowed(Device::get(index).current_stream()); },
          py::arg("device"))
      .def("make_current", [](Stream& s) { s.device().set_current_stream(&s); })
      .def_property_readonly("device", [](const Stream& s) { return s.device().index(); })
      .def_property_readonly(
          "handle", [](const Stream& s) { return reinterpret_cast<uintptr_t>(s.handle()); })
      .def_property_readonly("priority", &Stream::priority)
      .def("synchronize", without_gil(&Stream::synchronize))
      .def("query", without_gil(&Stream::done))
      .def("wait_stream", &Stream::wait, py::arg("other"));

  py::class_<Event>(module, "CudaEvent", py::is_final(), "A mark in a stream.")
      .def(py::init([](int index, bool timing) {
             return std::make_unique<Event>(Device::get(index), timing);
           }),
           py::arg("device"), py::arg("timing") = false)
      .def(
          "record",
          [](Event& event, const std::shared_ptr<Stream>& stream) {
            event.record(*current_or(stream, event.device()));
          },
          py::arg("stream") = nullptr)
      .def(
          "wait",
          [](const Event& event, const std::shared_ptr<Stream>& stream) {
            event.wait_on(*current_or(stream, event.device()));
          },
          py::arg("stream") = nullptr)
      .def_property_readonly("recorded", &Event::recorded)
      .def_property_readonly("handle",
                             [](const Event& e) { return reinterpret_cast<uintptr_t>(e.handle()); })
      .def("synchronize", without_gil(&Event::synchronize))
      .def("query", without_gil(&Event::done))
      .def("elapsed_time", &Event::milliseconds_until, py::arg("end"));
}

}  // namespace

void bind_cuda(py::module_& module) {
  const py::module_ errors = py::module_::import("deepseek.errors");
  py::register_exception<cuda::Error>(module, "CudaError", errors.attr("BackendError"));
  bind_devices(module);
  bind_memory(module);
  bind_streams(module);
  py::class_<cuda::Image, std::shared_ptr<cuda::Image>>(
      module, "CudaCode", py::is_final(), "A cubin; each device that runs its kernels loads it.")
      .def(py::init([](const py::object& data) {
             const Bytes bytes(data, "CudaCode");
             return std::make_shared<cuda::Image>(
                 std::string(bytes.span().data(), bytes.span().size()));
           }),
           py::arg("data"))
      .def_property_readonly("nbytes",
                             [](const cuda::Image& image) { return image.bytes().size(); });
}

}  // namespace deepseek::python
