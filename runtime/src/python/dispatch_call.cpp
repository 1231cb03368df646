// Runs a call that fits its entry: claims what it changes, runs the Program without the GIL, and
// shows the results.
#include <pybind11/stl.h>

#include <algorithm>

#include "deepseek/claims.h"
#include "deepseek/executor.h"
#include "dispatch.h"
#include "gil.h"
#include "signals.h"

namespace deepseek::python {
namespace {

using Buffers = std::vector<std::shared_ptr<Buffer>>;

// ---- before the run ----------------------------------------------------------------------------

// Whether all inputs can be read, and the call, if it changes anything, has begun to. False if that
// had to wait for others, who may have changed what was bound.
bool begin(const Entry& entry, const Frame& frame, Writer& writer) {
  for (const auto& buffer : frame.buffers) {
    if (buffer->claim() != 0 && wait_while_claimed(*buffer)) {
      return false;
    }
  }
  if (entry.rebound.empty() && entry.grads.empty()) {
    return true;
  }
  if (!writer.begin()) {
    wait_until([] { return wait_for_trace(kPatience); });
    return false;
  }
  for (const size_t input : entry.written) {
    writer.claim(*frame.buffers[input]);
  }
  return true;
}

// The handles that the call changes; held, since others run while the GIL is away.
void hold_handles(const Entry& entry, Frame& frame) {
  for (const Rebound& rebound : entry.rebound) {
    frame.handles.add(frame.objects[rebound.row]);
  }
  for (const Gradient& gradient : entry.grads) {
    frame.handles.add(frame.objects[gradient.row]);
  }
}

// The values that a later gradient through the call starts from.
py::list input_values(const Entry& entry, const Frame& frame) {
  py::list values;
  for (size_t i = 0; i < entry.inputs.size(); ++i) {
    const Source& input = entry.inputs[i];
    if (input.kind == Source::Kind::kTensor) {
      values.append(py::handle(value_of(frame.objects[input.row])));
    } else {
      values.append(make_value(input.type, frame.buffers[i], Py_False));
    }
  }
  return values;
}

py::list buffer_list(std::span<const std::shared_ptr<Buffer>> buffers) {
  py::list list;
  for (const auto& buffer : buffers) {
    list.append(py::cast(buffer));
  }
  return list;
}

py::tuple size_tuple(const Frame& frame) {
  py::tuple sizes(frame.sizes.size());
  for (size_t i = 0; i < frame.sizes.size(); ++i) {
    sizes[i] = frame.sizes[i];
  }
  return sizes;
}

// Adds what the Program computes once from tensors that stay.
void add_prepared(Entry& entry, Frame& frame) {
  std::vector<uint64_t> versions;
  for (const int source : entry.prepared_from) {
    versions.push_back(frame.buffers[static_cast<size_t>(source)]->version());
  }
  for (const int64_t size : frame.sizes) {
    versions.push_back(static_cast<uint64_t>(size));
  }
  if (versions != entry.prepared_versions) {
    const ReadableHere readable;
    const py::object made =
        entry.prepared.attr("up_to_date")(buffer_list(frame.buffers), size_tuple(frame));
    entry.prepared_inputs = py::cast<Buffers>(made);
    entry.prepared_versions = std::move(versions);
  }
  frame.buffers.insert(frame.buffers.end(), entry.prepared_inputs.begin(),
                       entry.prepared_inputs.end());
}

// ---- running -----------------------------------------------------------------------------------

Buffers run_program(const Entry& entry, Frame& frame) {
  SignalCheck signals;
  decide_donation(entry, frame);
  const WithoutGil release;
  return run(*entry.program, {frame.buffers, frame.sizes, frame.donate, signals.hook()});
}

// Python runs the executable; it writes over nothing.
Buffers run_executable(const Entry& entry, const Frame& frame) {
  const ReadableHere readable;
  const py::object made = entry.runner(buffer_list(frame.buffers), size_tuple(frame));
  return py::cast<Buffers>(made);
}

// The outputs' buffers, in the order of the graph's outputs.
Buffers run_entry(Entry& entry, Frame& frame) {
  frame.donate.clear();
  if (!entry.program) {
    frame.donate.assign(frame.buffers.size(), 0);
    return run_executable(entry, frame);
  }
  if (!entry.prepared.is_none()) {
    add_prepared(entry, frame);
  }
  Buffers made;
  try {
    made = run_program(entry, frame);
  } catch (const OutOfMemory&) {
    const ReadableHere readable;
    PyGC_Collect();  // a recorded graph may be a cycle, and holds its buffers until then
    made = run_program(entry, frame);
  }
  if (entry.as_made) {
    return made;
  }
  Buffers outputs;
  outputs.reserve(entry.sources.size());
  for (const int source : entry.sources) {
    outputs.push_back(source < 0 ? frame.buffers[static_cast<size_t>(~source)]
                                 : made[static_cast<size_t>(source)]);
  }
  return outputs;
}

}  // namespace

void Frame::clear() {
  leaves.clear();
  arrays.clear();
  held.clear();
  objects.clear();
  standing.reset();
  admitted.reset();
  buffers.clear();
  handles.clear();
  dropped.clear();
  reserved.clear();
}

py::object execute(Entry& entry, Frame& frame) {
  if (!bind_inputs(entry, frame)) {
    return {};
  }
  Writer writer;
  if (!begin(entry, frame, writer)) {
    return {};
  }
  hold_handles(entry, frame);
  py::list linked;
  if (entry.linked) {
    const ReadableHere readable;
    linked = input_values(entry, frame);
  }
  reserve_draws(entry, frame);
  Buffers outputs;
  try {
    outputs = run_entry(entry, frame);
  } catch (...) {
    return_draws(entry, frame);
    throw;
  }
  Results results(entry, frame, outputs);
  {
    const NoCollection quiet;  // nobody sees half of it
    results.rebind();
    writer.finish();
  }
  frame.dropped.clear();
  py::object result = results.build();
  if (entry.linked) {
    entry.plan.attr("link")(linked, results.tensors());
  }
  for (PyObject* effect : entry.effects) {
    checked(PyObject_CallNoArgs(effect));
  }
  return result;
}

}  // namespace deepseek::python
