// Sends one image to the kernel, or says why not. Its name stays in the browser: it may be a patient's.
export default {
  render({ model, el }) {
    const label = document.createElement("label"), input = document.createElement("input"), told = document.createElement("p");
    const show = () => { told.textContent = model.get("told"); };
    label.textContent = "An image of your own (PNG, JPEG, TIFF, DICOM): ";
    input.type = "file";
    input.accept = ".png,.jpg,.jpeg,.tif,.tiff,.bmp,.gif,.dcm,.dicom,.ima,image/*,application/dicom";
    told.setAttribute("role", "status");
    label.append(input);
    el.append(label, told);
    input.addEventListener("change", async () => {
      const [file] = input.files;
      if (!file) return;
      const most = model.get("most"), mega = (bytes) => Math.ceil(bytes / 2 ** 20);
      if (file.size > most) {
        told.textContent = `This file has ${mega(file.size)} MB and was not sent: at most ${mega(most)} MB are read. Export one frame of it.`;
      } else {
        told.textContent = "Sending …";
        model.send({ bytes: file.size }, undefined, [await file.arrayBuffer()]);
      }
      input.value = "";
    });
    model.on("change:told", show);
    show();
  },
};
