// Communicators for Python.
#include "deepseek/collective.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>

#include "bindings.h"
#include "gil.h"
#include "signals.h"

namespace deepseek::python {
namespace {

template <typename E, size_t N>
E by_name(const std::array<std::string_view, N>& names, const std::string& name, const char* what) {
  const auto found = std::find(names.begin(), names.end(), name);
  if (found == names.end()) {
    throw py::value_error(std::string("no ") + what + " '" + name + "'");
  }
  return static_cast<E>(found - names.begin());
}

std::shared_ptr<Communicator> connect(const std::string& name, const std::string& place, int rank,
                                      int size, double timeout, bool keep) {
  SignalCheck signals;
  const std::chrono::milliseconds limit(static_cast<int64_t>(timeout * 1e3));
  std::shared_ptr<Communicator> made;
  {
    const WithoutGil release;
    made = make_shared_memory(name, {place, rank, size, limit}, signals.hook());
  }
  if (keep) {
    add_communicator(made);
  }
  return made;
}

// Host memory in place of a device's: what a stub of NCCL is given.
std::shared_ptr<Communicator> connect_nccl(std::shared_ptr<Communicator> meet,
                                           const std::string& library) {
  const WithoutGil release;
  return make_nccl(std::move(meet),
                   {.library = library, .stream = {}, .clear = [](void* data, size_t nbytes) {
                      std::memset(data, 0, nbytes);
                    }});
}

void run(Communicator& communicator, const std::string& verb, const std::string& dtype,
         const std::string& reduction, int peer, int source, int64_t count,
         const std::optional<py::buffer>& given, const std::optional<py::buffer>& taken) {
  Message message = to_message(verb, dtype, reduction, peer, source);
  message.count = count;
  std::optional<py::buffer_info> from;
  std::optional<py::buffer_info> to;
  if (given) {
    from = given->request();
  }
  if (taken) {
    to = taken->request(true);
  }
  const auto fits = [](const std::optional<py::buffer_info>& info, int64_t nbytes) {
    return info ? info->size * info->itemsize >= nbytes : nbytes == 0;
  };
  const bool empty = message.verb == Verb::kBarrier;
  const bool gives = !empty && !(message.verb == Verb::kExchange && peer < 0);
  if (!fits(from, gives ? message.given_bytes() : 0) ||
      !fits(to, empty ? 0 : message.taken_bytes(communicator.size()))) {
    throw py::value_error(describe(message) + ": the buffers are too small");
  }
  SignalCheck signals;
  const WithoutGil release;
  communicator.run(message, from ? from->ptr : nullptr, to ? to->ptr : nullptr, signals.hook());
}

}  // namespace

Message to_message(const std::string& verb, const std::string& dtype, const std::string& reduction,
                   int peer, int source) {
  return {.verb = by_name<Verb>(kVerbs, verb, "collective"),
          .element = by_name<Element>(kElements, dtype, "element type"),
          .reduction = by_name<Reduction>(kReductions, reduction, "reduction"),
          .peer = peer,
          .source = source};
}

void bind_collective(py::module_& module) {
  py::class_<Communicator, std::shared_ptr<Communicator>>(
      module, "Communicator", py::is_final(), "This process's place in a group of processes.")
      .def_property_readonly("name", &Communicator::name)
      .def_property_readonly("rank", &Communicator::rank)
      .def_property_readonly("size", &Communicator::size)
      .def_property_readonly("transport", &Communicator::transport)
      .def("run", &run, py::arg("verb"), py::arg("dtype") = "uint8", py::arg("reduction") = "none",
           py::arg("peer") = -1, py::arg("source") = -1, py::arg("count") = 0,
           py::arg("given") = py::none(), py::arg("taken") = py::none());
  module.def("connect", &connect, py::arg("name"), py::arg("place"), py::arg("rank"),
             py::arg("size"), py::arg("timeout"), py::arg("keep") = true);
  module.def("connect_nccl", &connect_nccl, py::arg("meet"), py::arg("library"));
  module.def("communicator", &find_communicator, py::arg("name"));
  module.def(
      "disconnect",
      [](const std::string& name) {
        const WithoutGil release;
        remove_communicator(name);
      },
      py::arg("name"));
}

}  // namespace deepseek::python
