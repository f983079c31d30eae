"""Command that trains the generator of the miniature world: `python -m faceid_core.miniature_training.train MODEL`."""

import argparse

import torch


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and train one model for its time budget."""
    parser = argparse.ArgumentParser(
        prog="python -m faceid_core.miniature_training.train", description=__doc__
    )
    parser.add_argument("model", choices=("tokenizer", "autoencoder", "decoder", "unet", "names", "text_encoder"))
    parser.add_argument("--minutes", type=float, default=30, help="wall-clock budget of this phase")
    parser.add_argument(
        "--resume", action="store_true", help="start from the last checkpoint, fresh optimizer"
    )
    parser.add_argument("--pictures", type=int, help="how many pictures to render and hold in memory")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rate", type=float, help="of part unet: the phase's highest learning rate (0.001)")
    parser.add_argument(
        "--frozen-text",
        action="store_true",
        help="of part unet: on the text encoder that part text_encoder trained, with varied pictures and pairs",
    )
    parser.add_argument(
        "--keep",
        action="store_true",
        help="of parts text_encoder and unet --frozen-text: write the phase's end in half precision to where it is "
        "committed, so that another machine goes on from it",
    )
    parser.add_argument("--known", type=int, default=256, help="of part names: how many the encoder knows")
    options = parser.parse_args(arguments)
    if options.frozen_text and options.model != "unet":
        parser.error("--frozen-text is of part unet")
    if options.keep and options.model != "text_encoder" and not options.frozen_text:
        parser.error("--keep is of parts text_encoder and unet --frozen-text")
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    given = {"minutes": options.minutes, "resume": options.resume}
    if options.pictures:
        given["pictures"] = options.pictures
    if options.model == "tokenizer":
        from faceid_core.miniature_training.tokenizer import build_tokenizer

        build_tokenizer()
    elif options.model == "autoencoder":
        from faceid_core.miniature_training.autoencoder import train_autoencoder

        train_autoencoder(**given)
    elif options.model == "decoder":
        from faceid_core.miniature_training.autoencoder import train_decoder

        train_decoder(**given)
    elif options.model == "names":
        from faceid_core.miniature_training.unet import extend_names

        try:
            extend_names(minutes=options.minutes, known=options.known)
        except ValueError as error:
            parser.error(str(error))
    elif options.model == "text_encoder":
        from faceid_core.miniature_training.text_encoder import train_text_encoder

        train_text_encoder(**given)
    else:
        from faceid_core.miniature_training.unet import train_unet

        if options.rate:
            given["rate"] = options.rate
        train_unet(**given, frozen_text=options.frozen_text)
    if options.keep:
        from faceid_core.miniature_training.schedules import keep_checkpoint

        name = "unet_frozen_text" if options.frozen_text else options.model
        print(f"kept in {keep_checkpoint(name)}", flush=True)


if __name__ == "__main__":
    main()
