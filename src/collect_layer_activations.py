from ditq.cli.collect_layer_activations import main

if __name__ == "__main__":
    main()
